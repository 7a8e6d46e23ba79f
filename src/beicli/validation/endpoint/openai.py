"""What the OpenAI client relies on: `/v1/embeddings`."""

import base64
import binascii

import numpy as np

from beicli.findings import Level
from beicli.validation.endpoint.checks import (
    NUM_LONG_WORDS,
    SHORT_TEXT,
    TEXTS,
    Contract,
    Vector,
    array_of,
    check,
    fail,
    is_count,
    mapping,
    refused,
    same_vector,
    succeeded,
    vector,
)
from beicli.validation.endpoint.exchange import Answer, Server

_ROUTE = "/v1/embeddings"
_MAX_LENGTH_ERROR = 1e-2
_RETRIED = "clients retry what is not said to be their own fault"


def _ask(server: Server, texts: object, **others: object) -> Answer:
    return server.post(_ROUTE, {"model": server.model, "input": texts, **others})


def _entries(answer: Answer, number: int) -> list[dict[str, object]]:
    body = mapping(succeeded(answer), answer, "the answer")
    entries = array_of(body.get("data"), number, answer, "`data`")
    return [mapping(entry, answer, "an entry of `data`") for entry in entries]


def _vectors(answer: Answer, number: int) -> list[Vector]:
    return [vector(entry.get("embedding"), answer) for entry in _entries(answer, number)]


def _form(server: Server) -> None:
    answer = _ask(server, SHORT_TEXT)
    body = mapping(succeeded(answer), answer, "the answer")
    (entry,) = _entries(answer, 1)
    _vectors(answer, 1)
    if body.get("object") != "list" or entry.get("object") != "embedding":
        fail("`object` must be `list`, and `embedding` in each entry", answer)
    if entry.get("index") != 0:
        fail(f"`index` of the only entry is {entry.get('index')!r}", answer)
    if not isinstance(body.get("model"), str):
        fail("`model` is missing", answer)


def _usage(server: Server) -> None:
    answer = _ask(server, SHORT_TEXT)
    body = mapping(succeeded(answer), answer, "the answer")
    usage = mapping(body.get("usage"), answer, "`usage`")
    counts = [usage.get("prompt_tokens"), usage.get("total_tokens")]
    if not all(is_count(count) and count for count in counts):
        fail(f"`usage` must count tokens; found {usage}", answer)


def _order(server: Server) -> None:
    alone = [_vectors(_ask(server, text), 1)[0] for text in TEXTS]
    answer = _ask(server, list(TEXTS))
    indices = [entry.get("index") for entry in _entries(answer, len(TEXTS))]
    if indices != list(range(len(TEXTS))):
        fail(f"`index` must count the inputs from 0; found {indices}", answer)
    for number, (wanted, found) in enumerate(zip(alone, _vectors(answer, len(TEXTS)), strict=True)):
        same_vector(wanted, found, answer, f"input {number} among others is not as it is alone")


def _base64(server: Server) -> None:
    (wanted,) = _vectors(_ask(server, SHORT_TEXT, encoding_format="float"), 1)
    answer = _ask(server, SHORT_TEXT, encoding_format="base64")
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
    same_vector(wanted, found, answer, "base64 and float are not the same numbers")


def _unit_length(server: Server) -> None:
    answer = _ask(server, SHORT_TEXT)
    length = float(np.linalg.norm(_vectors(answer, 1)[0]))
    if abs(length - 1) > _MAX_LENGTH_ERROR:
        fail(f"the embedding has length {length:.3f}, not 1", answer)


def _dimensions(server: Server) -> None:
    whole = _vectors(_ask(server, SHORT_TEXT), 1)[0]
    wanted = max(len(whole) // 2, 1)
    answer = _ask(server, SHORT_TEXT, dimensions=wanted)
    if answer.is_refusal:
        return  # not every model can be cut, and it says so
    (found,) = _vectors(answer, 1)
    if len(found) != wanted:
        fail(f"`dimensions: {wanted}` gave {len(found):,} numbers", answer)
    same_vector(whole[:wanted], found, answer, "shortened vectors are not the first numbers")


def _too_many_dimensions(server: Server) -> None:
    answer = _ask(server, SHORT_TEXT, dimensions=10**6)
    refused(answer, "`dimensions` of a million")


def _empty(server: Server) -> None:
    refused(_ask(server, []), "an empty list of inputs")


def _missing(server: Server) -> None:
    answer = server.post(_ROUTE, {"model": server.model})
    refused(answer, "a body without `input`")


def _broken_json(server: Server) -> None:
    answer = server.post_text(_ROUTE, '{"input": "cut off')
    refused(answer, "a body that is no JSON")


def _error_body(server: Server) -> None:
    answer = server.post(_ROUTE, {"model": server.model})
    body = answer.value if isinstance(answer.value, dict) else {}
    inner = body.get("error")
    text = inner.get("message") if isinstance(inner, dict) else body.get("message", inner)
    if not isinstance(text, str):
        # A router before the server may answer in plain words.
        text = "" if body else answer.excerpt
    if not text.strip():
        fail("a refusal must say what is wrong", answer)


def _long_text(server: Server) -> None:
    body = {"model": server.model, "input": "word " * NUM_LONG_WORDS}
    expression = f'{{"model": {server.model!r}, "input": "word " * {NUM_LONG_WORDS}}}'
    answer = server.post(_ROUTE, body, as_python=expression)
    if not answer.is_success and not answer.is_refusal:
        fail(f"{NUM_LONG_WORDS:,} words were answered with {answer.status}", answer)


OPENAI = Contract(
    "OpenAI embeddings",
    lambda server: _ask(server, SHORT_TEXT),
    (
        check("openai-form", _ROUTE, _form, "the OpenAI client reads these keys"),
        check("openai-usage", _ROUTE, _usage, "costs are counted from it", level=Level.WARNING),
        check(
            "openai-order",
            _ROUTE,
            _order,
            "a vector of another text, or one that depends on its neighbours, is a wrong answer",
        ),
        check(
            "openai-base64",
            _ROUTE,
            _base64,
            "the OpenAI client for Python asks for base64 unless it is told otherwise",
        ),
        check(
            "openai-unit-length",
            _ROUTE,
            _unit_length,
            "indexes that rank by inner product expect vectors of length 1",
            level=Level.WARNING,
        ),
        check(
            "openai-dimensions",
            _ROUTE,
            _dimensions,
            "an index of that many dimensions refuses anything else",
        ),
        check(
            "openai-too-many-dimensions",
            _ROUTE,
            _too_many_dimensions,
            "whoever asks for more than there is must hear of it",
            level=Level.WARNING,
        ),
        check("openai-empty", _ROUTE, _empty, "clients retry a 5xx and take a 200 for vectors"),
        check("openai-missing", _ROUTE, _missing, _RETRIED),
        check("openai-no-json", _ROUTE, _broken_json, _RETRIED),
        check(
            "openai-error-body",
            _ROUTE,
            _error_body,
            "people see this text and nothing else",
            level=Level.WARNING,
        ),
        check(
            "openai-long-text",
            _ROUTE,
            _long_text,
            "one long document must not look like a server that is down",
        ),
    ),
)
