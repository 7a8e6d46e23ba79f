"""What the OpenAI client and Baseten's Performance Client rely on: embeddings."""

import base64
import binascii
from typing import Any

import numpy as np

from beicli.findings import Level
from beicli.validation.endpoint.batches import Dialogue, own_answer_checks
from beicli.validation.endpoint.checks import (
    SHORT_TEXT,
    CheckSkippedError,
    Contract,
    Offer,
    array_of,
    brief,
    check,
    fail,
    is_count,
    mapping,
    succeeded,
)
from beicli.validation.endpoint.exchange import Answer, post
from beicli.validation.endpoint.openai_refusals import (
    REFUSALS,
    ask_for_embedding,
    embeddings_body,
)
from beicli.validation.endpoint.vectors import (
    Vector,
    different_direction,
    different_numbers,
    has_unit_length,
    length,
    vector,
)


def _entries(answer: Answer, number: int) -> list[dict[str, Any]]:
    body = mapping(succeeded(answer), answer, "the answer")
    entries = array_of(body.get("data"), number, answer, "`data`")
    return [mapping(entry, answer, "an entry of `data`") for entry in entries]


def _vectors(answer: Answer, number: int) -> list[Vector]:
    entries = _entries(answer, number)
    indices = [entry.get("index") for entry in entries]
    if indices != list(range(number)):
        fail(f"`index` must count the inputs from 0; found {brief(indices)}", answer)
    return [vector(entry.get("embedding"), answer) for entry in entries]


def _dialogue(offer: Offer) -> Dialogue[Vector]:
    return Dialogue(
        body=lambda texts: embeddings_body(offer, list(texts)),
        body_of_one=lambda text: embeddings_body(offer, offer.one(text)),
        read=_vectors,
        difference=different_numbers,
    )


def _form(offer: Offer) -> None:
    answer = ask_for_embedding(offer)
    body = mapping(succeeded(answer), answer, "the answer")
    (entry,) = _entries(answer, 1)
    _vectors(answer, 1)
    if body.get("object") != "list" or entry.get("object") != "embedding":
        fail("`object` must be `list`, and `embedding` in each entry", answer)
    if not isinstance(body.get("model"), str):
        fail("`model` is missing", answer)


def _usage(offer: Offer) -> None:
    answer = ask_for_embedding(offer)
    body = mapping(succeeded(answer), answer, "the answer")
    usage = mapping(body.get("usage"), answer, "`usage`")
    counts = [usage.get("prompt_tokens"), usage.get("total_tokens")]
    if not all(is_count(count) and count for count in counts):
        fail(f"`usage` must count tokens; found {brief(usage)}", answer)


def _performance_client(offer: Offer) -> None:
    """It sends lists, and refuses a whole answer for one key that is missing."""
    answer = offer.post(embeddings_body(offer, [SHORT_TEXT]))
    body = mapping(succeeded(answer), answer, "the answer")
    (entry,) = _entries(answer, 1)
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    wanted = {
        "object": isinstance(body.get("object"), str),
        "model": isinstance(body.get("model"), str),
        "data[].object": isinstance(entry.get("object"), str),
        "data[].index": is_count(entry.get("index")),
        "data[].embedding": isinstance(entry.get("embedding"), list | str),
        "usage.prompt_tokens": is_count(counts.get("prompt_tokens")),
        "usage.total_tokens": is_count(counts.get("total_tokens")),
    }
    missing = [f"`{key}`" for key, is_there in wanted.items() if not is_there]
    if missing:
        fail(f"{', '.join(missing)} missing or of another type", answer)


def _base64(offer: Offer) -> None:
    plain = ask_for_embedding(offer, encoding_format="float")
    (wanted,) = _vectors(plain, 1)
    answer = ask_for_embedding(offer, encoding_format="base64")
    text = _entries(answer, 1)[0].get("embedding")
    if not isinstance(text, str):
        fail("with `encoding_format: base64` an embedding must be a text", answer)
    try:
        content = base64.b64decode(text, validate=True)
        found = np.frombuffer(content, dtype="<f4").astype(np.float64)
    except (binascii.Error, ValueError):
        fail("the embedding is not base64 of little-endian float32 numbers", answer)
    if not np.isfinite(found).all() or not found.any():
        fail("the embedding is not base64 of little-endian float32 numbers", answer)
    difference = different_numbers(wanted, found)
    if difference is not None:
        fail(f"base64 and float are not the same numbers: {difference}", plain, answer)


def _unit_length(offer: Offer) -> None:
    answer = ask_for_embedding(offer)
    (found,) = _vectors(answer, 1)
    if not has_unit_length(found):
        fail(f"the embedding has length {length(found):.3f}, not 1", answer)


def _dimensions(offer: Offer) -> None:
    plain = ask_for_embedding(offer)
    (whole,) = _vectors(plain, 1)
    wanted = max(len(whole) // 2, 1)
    answer = ask_for_embedding(offer, dimensions=wanted)
    if answer.is_refusal or answer.proves_nothing:
        raise CheckSkippedError  # not every model can be cut, and it says so
    (found,) = _vectors(answer, 1)
    if len(found) != wanted:
        fail(f"`dimensions: {wanted}` gave {len(found):,} numbers", answer)
    difference = different_direction(whole[:wanted], found) if whole[:wanted].any() else None
    if difference is not None:
        fail(f"shortened vectors are not the first numbers: {difference}", plain, answer)
    if has_unit_length(whole) and not has_unit_length(found):
        what = f"whole vectors have length 1, shortened ones {length(found):.3f}"
        fail(what, plain, answer)


OPENAI = Contract(
    name="OpenAI embeddings",
    routes=("/v1/embeddings", "/embeddings"),
    probe=lambda offer: post(offer.route, embeddings_body(offer, offer.one(SHORT_TEXT))),
    kinds=frozenset({"embedding"}),
    checks=(
        check("openai-form", _form, "the OpenAI client reads these keys"),
        check("openai-usage", _usage, "costs are counted from it", level=Level.WARNING),
        check(
            "performance-client-embed",
            _performance_client,
            "Baseten's Performance Client fails where one of these is missing",
        ),
        *own_answer_checks(
            "openai",
            _dialogue,
            why="a vector of another text, or that depends on its neighbours, is a wrong answer",
        ),
        check(
            "openai-base64",
            _base64,
            "the OpenAI client for Python asks for base64 unless it is told otherwise",
        ),
        check(
            "openai-unit-length",
            _unit_length,
            "indexes that rank by inner product expect vectors of length 1",
            level=Level.WARNING,
        ),
        check(
            "openai-dimensions",
            _dimensions,
            "an index of that many dimensions refuses anything else",
        ),
        *REFUSALS,
    ),
)
