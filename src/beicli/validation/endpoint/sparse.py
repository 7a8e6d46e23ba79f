"""What clients of sparse embeddings rely on: `/embed_sparse`."""

from typing import Any

from beicli.validation.endpoint.batches import Dialogue, own_answer_checks
from beicli.validation.endpoint.checks import (
    SHORT_TEXT,
    TEXTS,
    Contract,
    Offer,
    array_of,
    brief,
    check,
    fail,
    is_count,
    is_number,
    mapping,
    refused,
    succeeded,
)
from beicli.validation.endpoint.exchange import Answer, post

Weights = dict[int, float]

# Of the largest weight: the smallest ones come and go with 16 bits.
_MAX_DIFFERENCE = 0.03


def _weights(entries: Any, answer: Answer) -> Weights:
    if not isinstance(entries, list):
        fail("the answer must hold a list for each input", answer)
    weights: Weights = {}
    for entry in entries:
        values = mapping(entry, answer, "an entry")
        index, value = values.get("index"), values.get("value")
        if not is_count(index) or not is_number(value) or index in weights:
            fail(f"an entry must have an `index` of its own and a `value`: {brief(values)}", answer)
        if value <= 0:
            fail(f"weights are above 0, others are left out; found {brief(values)}", answer)
        weights[index] = value
    return weights


def _rows(answer: Answer, number: int) -> list[Weights]:
    rows = array_of(succeeded(answer), number, answer, "the answer")
    return [_weights(row, answer) for row in rows]


def _difference(wanted: Weights, found: Weights) -> str | None:
    tolerance = _MAX_DIFFERENCE * max([*wanted.values(), *found.values()], default=0.0)
    for index in wanted.keys() | found.keys():
        pair = (wanted.get(index, 0.0), found.get(index, 0.0))
        if abs(pair[0] - pair[1]) > tolerance:
            return f"index {index} has {pair[0]:.4g} and {pair[1]:.4g}"
    return None


def _dialogue(offer: Offer) -> Dialogue[Weights]:
    return Dialogue(
        body=lambda texts: {"inputs": list(texts)},
        body_of_one=lambda text: {"inputs": offer.one(text)},
        read=_rows,
        difference=_difference,
    )


def _weights_form(offer: Offer) -> None:
    answers = [offer.post_once({"inputs": offer.one(text)}) for text in TEXTS]
    if not any(_rows(answer, 1)[0] for answer in answers):
        fail(f"none of {len(TEXTS)} texts has any weights", *answers)


SPARSE = Contract(
    name="TEI sparse embeddings",
    routes=("/embed_sparse",),
    probe=lambda offer: post(offer.route, {"inputs": offer.one(SHORT_TEXT)}),
    kinds=frozenset({"sparse embedding"}),
    checks=(
        check("tei-sparse-form", _weights_form, "an inverted index finds nothing without weights"),
        *own_answer_checks(
            "tei-sparse", _dialogue, why="an inverted index is built of these pairs"
        ),
        check(
            "tei-sparse-empty",
            lambda offer: refused(offer.post({"inputs": []}), "an empty list of inputs"),
            "clients retry a 5xx",
        ),
    ),
)
