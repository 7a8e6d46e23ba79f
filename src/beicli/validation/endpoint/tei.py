"""What clients of text-embeddings-inference rely on: `/embed`."""

from typing import Any

from beicli.findings import Level
from beicli.validation.endpoint.batches import Dialogue, own_answer_checks
from beicli.validation.endpoint.checks import (
    SHORT_TEXT,
    CheckSkippedError,
    Contract,
    Offer,
    array_of,
    check,
    fail,
    refused,
    succeeded,
)
from beicli.validation.endpoint.exchange import Answer, post
from beicli.validation.endpoint.long_texts import long_text_answer, no_truncate
from beicli.validation.endpoint.vectors import (
    Vector,
    different_direction,
    different_numbers,
    has_unit_length,
    length,
    vector,
)

_RETRIED = "clients retry what is not said to be their own fault"


def embed(offer: Offer, **others: Any) -> Answer:
    """Ask about a short text, once for each set of `others`."""
    return offer.post_once({"inputs": offer.one(SHORT_TEXT), **others})


def read_vectors(answer: Answer, number: int) -> list[Vector]:
    """Return the vectors of an answer."""
    rows = array_of(succeeded(answer), number, answer, "the answer")
    return [vector(row, answer) for row in rows]


def _dialogue(offer: Offer) -> Dialogue[Vector]:
    return Dialogue(
        body=lambda texts: {"inputs": list(texts)},
        body_of_one=lambda text: {"inputs": offer.one(text)},
        read=read_vectors,
        difference=different_numbers,
    )


def _normalize(offer: Offer) -> None:
    answer = embed(offer, normalize=True)
    (unit,) = read_vectors(answer, 1)
    if not has_unit_length(unit):
        fail(f"with `normalize` an embedding has length {length(unit):.3f}", answer)
    plain = embed(offer, normalize=False)
    (raw,) = read_vectors(plain, 1)
    difference = different_direction(unit, raw)
    if difference is not None:
        fail(f"`normalize` changes more than the length: {difference}", answer, plain)


def _truncate(offer: Offer) -> None:
    read_vectors(long_text_answer(offer, {"truncate": True}, "inputs"), 1)


def _empty(offer: Offer) -> None:
    answer = offer.post({"inputs": []})
    refused(answer, "an empty list of inputs")
    value = answer.value
    body = value if isinstance(value, dict) else {}
    if not isinstance(body.get("error"), str) or not isinstance(body.get("error_type"), str):
        fail("a refusal must have the texts `error` and `error_type`", answer)


def _batch_limit(offer: Offer) -> None:
    limit = offer.max_batch_size
    if limit is None:
        raise CheckSkippedError
    body = {"inputs": ["a"] * (limit + 1)}
    answer = offer.post(body, as_python=f'{{"inputs": ["a"] * {limit + 1}}}')
    refused(answer, f"{limit + 1} inputs, one more than `/info` allows,")
    wanted = f"batch size {limit + 1} > maximum allowed batch size {limit}"
    if wanted not in answer.content.decode("utf-8", "replace"):
        fail(f"the refusal must say `{wanted}`", answer)


EMBED = Contract(
    name="TEI embeddings",
    routes=("/embed",),
    probe=lambda offer: post(offer.route, {"inputs": offer.one(SHORT_TEXT)}),
    kinds=frozenset({"embedding"}),
    checks=(
        *own_answer_checks(
            "tei",
            _dialogue,
            why="a vector of another text, or that depends on its neighbours, is a wrong answer",
        ),
        check("tei-normalize", _normalize, "clients choose whether length matters"),
        check("tei-truncate", _truncate, "who asks for truncation has long texts"),
        check(
            "tei-no-truncate",
            no_truncate,
            "who forbids truncation must hear of what does not fit",
            level=Level.WARNING,
        ),
        check("tei-empty", _empty, "clients tell errors apart by `error_type`, and retry a 5xx"),
        check("tei-missing", lambda offer: refused(offer.post({}), "an empty body"), _RETRIED),
        check(
            "tei-no-json",
            lambda offer: refused(offer.post_text('{"inputs": "cut off'), "a body that is no JSON"),
            _RETRIED,
        ),
        check("tei-batch-limit", _batch_limit, "clients read the limit from this text"),
    ),
)
