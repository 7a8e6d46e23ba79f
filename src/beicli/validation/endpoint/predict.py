"""What clients of classifiers rely on: `/predict`."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from beicli.findings import Level
from beicli.validation.endpoint.batches import Dialogue, own_answer_checks
from beicli.validation.endpoint.checks import (
    SHORT_TEXT,
    TEXTS,
    CheckSkippedError,
    Contract,
    Offer,
    array_of,
    brief,
    check,
    fail,
    is_number,
    mapping,
    not_crashed,
    refused,
    succeeded,
)
from beicli.validation.endpoint.exchange import Answer, post
from beicli.validation.endpoint.long_texts import no_truncate
from beicli.validation.endpoint.scores import are_same_probabilities, sigmoid

Labels = dict[str, float]

_MAX_SUM_ERROR = 0.01


def _one(offer: Offer, text: str) -> Any:
    return text if offer.takes_texts else [[text]]


def _body(texts: Sequence[str]) -> dict[str, Any]:
    return {"inputs": [[text] for text in texts]}


def _ask(offer: Offer, **others: Any) -> Answer:
    return offer.post_once({"inputs": _one(offer, SHORT_TEXT), **others})


def _labels(entries: Any, answer: Answer) -> Labels:
    if not isinstance(entries, list) or not entries:
        fail("the answer must be a list of labels with scores", answer)
    found: Labels = {}
    for entry in entries:
        values = mapping(entry, answer, "an entry")
        label, score = values.get("label"), values.get("score")
        if not isinstance(label, str) or label in found or not is_number(score):
            what = "an entry must have a `label` of its own and a `score`"
            fail(f"{what}: {brief(values)}", answer)
        found[label] = score
    return found


def _rows(answer: Answer, number: int) -> list[Labels]:
    """Return the labels of each input; those of a text by itself stand in no list of lists."""
    value = succeeded(answer)
    is_flat = number == 1 and isinstance(value, list) and value and isinstance(value[0], dict)
    rows = [value] if is_flat else array_of(value, number, answer, "the answer")
    return [_labels(row, answer) for row in rows]


def _difference(wanted: Labels, found: Labels) -> str | None:
    if wanted.keys() != found.keys():
        return f"labels {brief(sorted(wanted))} and {brief(sorted(found))}"
    for label, score in wanted.items():
        if not are_same_probabilities(score, found[label]):
            return f"`{brief(label)}` has {score:.3f} and {found[label]:.3f}"
    return None


def _dialogue(offer: Offer) -> Dialogue[Labels]:
    return Dialogue(
        body=_body,
        body_of_one=lambda text: {"inputs": _one(offer, text)},
        read=_rows,
        difference=_difference,
    )


def _form(offer: Offer) -> None:
    answer = _ask(offer)
    scores = list(_rows(answer, 1)[0].values())
    if not all(-1e-6 <= score <= 1 + 1e-6 for score in scores):  # noqa: PLR2004 - rounding
        fail(f"without `raw_scores` scores lie between 0 and 1; found {brief(scores)}", answer)
    if scores != sorted(scores, reverse=True):
        fail("labels must come best first", answer)


def _raw_scores(offer: Offer) -> None:
    plain, answer = _ask(offer), _ask(offer, raw_scores=True)
    not_crashed(answer, "`raw_scores: true`")
    if not answer.is_success:
        raise CheckSkippedError
    scores, raw = _rows(plain, 1)[0], _rows(answer, 1)[0]
    if scores.keys() != raw.keys():
        fail("`raw_scores` gives other labels", plain, answer)
    by_score = sorted(scores, key=lambda label: scores[label])
    for worse, better in pairwise(by_score):
        is_tie = are_same_probabilities(scores[worse], scores[better])
        if not is_tie and raw[worse] > raw[better]:
            fail("`raw_scores` puts the labels into another order", plain, answer)


def _sum(offer: Offer) -> None:
    plain = _ask(offer)
    scores = _rows(plain, 1)[0]
    total = sum(scores.values())
    if len(scores) < 2 or abs(total - 1) <= _MAX_SUM_ERROR:  # noqa: PLR2004 - labels to choose from
        return
    answer = _ask(offer, raw_scores=True)
    raw = _rows(answer, 1)[0] if answer.is_success else {}
    if raw.keys() == scores.keys() and all(
        are_same_probabilities(sigmoid(raw[label]), score) for label, score in scores.items()
    ):
        return  # each label by itself: a text may have several
    fail(f"the probabilities of {len(scores)} labels add up to {total:.3f}", plain)


def _pairs(offer: Offer) -> None:
    pairs = [list(TEXTS[:2]), list(TEXTS[1:3])][: offer.at_most(2, at_least=1)]
    answer = offer.post({"inputs": pairs})
    not_crashed(answer, "a list of pairs of texts")
    if answer.is_success:
        _rows(answer, len(pairs))


def _empty(offer: Offer) -> None:
    refused(offer.post({"inputs": []}), "an empty list of inputs")


PREDICT = Contract(
    name="TEI predict",
    routes=("/predict",),
    probe=lambda offer: post(offer.route, {"inputs": _one(offer, SHORT_TEXT)}),
    kinds=frozenset({"classifier"}),
    checks=(
        check("predict-form", _form, "clients take the first label"),
        *own_answer_checks("predict", _dialogue, why="labels of another text are a wrong answer"),
        check(
            "predict-raw-scores",
            _raw_scores,
            "Baseten's Performance Client always sends `raw_scores`",
        ),
        check(
            "predict-sum",
            _sum,
            "clients take the scores of labels that exclude each other for probabilities",
            level=Level.WARNING,
        ),
        check("predict-pairs", _pairs, "rerankers with two labels are asked in pairs"),
        check(
            "predict-no-truncate",
            no_truncate,
            "who forbids truncation, as Baseten's Performance Client does, must hear of what does "
            "not fit",
            level=Level.WARNING,
        ),
        check("predict-empty", _empty, "clients retry a 5xx"),
    ),
)
