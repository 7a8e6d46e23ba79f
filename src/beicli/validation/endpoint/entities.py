"""What clients of entity models rely on: `/predict_tokens`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beicli.validation.endpoint.batches import Dialogue, own_answer_checks
from beicli.validation.endpoint.checks import (
    CheckSkippedError,
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
from beicli.validation.endpoint.scores import are_same_probabilities

# Before the last words stand letters and signs of which bytes, UTF-16 and characters differ.
_TEXTS = (
    "Tim Cook works for Apple in Cupertino.",
    "José Müller 🌧️ visited Angela Merkel in Zürich.",
    "Her name is Anna Schmidt and she was born near Berlin in 1987.",
)
# Below it another label may come out on top by rounding alone.
_MIN_CERTAIN = 0.55
_OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class _Span:
    """One entry of an answer; start, end: code points."""

    token: str
    start: int
    end: int
    results: dict[str, float]

    @property
    def label(self) -> str:
        return max(self.results, key=lambda label: self.results[label])

    @property
    def is_entity(self) -> bool:
        return self.start < self.end and self.label != _OUTSIDE


Spans = list[_Span]


def _body(texts: Sequence[str], **others: Any) -> dict[str, Any]:
    return {"inputs": [[text] for text in texts], **others}


def _span(entry: Any, answer: Answer) -> _Span:
    values = mapping(entry, answer, "an entry")
    token, start, end = (values.get(key) for key in ("token", "start", "end"))
    if not is_count(start) or not is_count(end) or not isinstance(token, str):
        fail(f"an entry must have `token`, `start` and `end`: {brief(values)}", answer)
    if start > end:
        fail(f"an entry must not end before its start: {brief(values)}", answer)
    results = mapping(values.get("results"), answer, "`results`")
    if not results or not all(map(is_number, results.values())):
        fail(f"`results` must map labels to scores: {brief(values)}", answer)
    return _Span(token, start, end, results)


def _rows(answer: Answer, number: int) -> list[Spans]:
    rows = array_of(succeeded(answer), number, answer, "the answer")
    if not all(isinstance(row, list) for row in rows):
        fail("the answer must hold a list for each text", answer)
    return [[_span(entry, answer) for entry in row] for row in rows]


def _checked_spans(offer: Offer, text: str, **others: Any) -> tuple[Spans, Answer]:
    """Ask about one text, and see that every token is a piece of it."""
    answer = offer.post_once(_body([text], **others))
    (spans,) = _rows(answer, 1)
    for span in spans:
        if span.start < span.end and text[span.start : span.end] != span.token:
            there = brief(text[span.start : span.end])
            what = f"`token` is `{brief(span.token)}`; the text has `{there}` from `start` to `end`"
            fail(f"{what}, counted in characters", answer)
    return spans, answer


def _difference(wanted: Spans, found: Spans) -> str | None:
    if len(wanted) != len(found):
        return f"{len(wanted)} entries and {len(found)}"
    for one, other in zip(wanted, found, strict=True):
        if (one.token, one.start, one.end) != (other.token, other.start, other.end):
            return f"`{brief(one.token)}` and `{brief(other.token)}` stand at the same place"
        scores = (one.results[one.label], other.results[other.label])
        is_certain = max(scores) >= _MIN_CERTAIN
        if (is_certain and one.label != other.label) or not are_same_probabilities(*scores):
            labels = f"{one.label} {scores[0]:.3f} and {other.label} {scores[1]:.3f}"
            return f"`{brief(one.token)}` is {brief(labels)}"
    return None


def _dialogue() -> Dialogue[Spans]:
    return Dialogue(
        body=_body,
        body_of_one=lambda text: _body([text]),
        read=_rows,
        difference=_difference,
        texts=_TEXTS,
    )


def _form(offer: Offer) -> None:
    for text in _TEXTS:
        spans, answer = _checked_spans(offer, text)
        if not spans:
            fail("without aggregation every token has an entry", answer)
        if not any(span.start < span.end for span in spans):
            fail("no entry has an `end` after its `start`", answer)


def _aggregated(offer: Offer) -> None:
    for text in _TEXTS:
        spans, plain = _checked_spans(offer, text)
        groups, answer = _checked_spans(offer, text, aggregation_strategy="max")
        if len(groups) > len(spans) or any(
            label.startswith(("B-", "I-")) or label == _OUTSIDE
            for group in groups
            for label in group.results
        ):
            what = "aggregated entries are whole entities, with labels that have no `B-` or `I-`"
            fail(what, answer)
        words = [span for span in spans if span.is_entity and _is_word(text, span)]
        if words and not groups:
            token = brief(words[0].token)
            fail(f"`{token}` is an entity of its own, and among whole entities none", plain, answer)


def _is_word(text: str, span: _Span) -> bool:
    """Whether a token is a whole word, so no other token has a say in its label."""
    before, after = text[: span.start][-1:], text[span.end :][:1]
    return not before.isalnum() and not after.isalnum()


def _shapes(offer: Offer) -> None:
    texts = list(_TEXTS[: offer.at_most(2)])
    nested, flat = offer.post_once(_body(texts)), offer.post_once({"inputs": texts})
    if flat.is_refusal or flat.proves_nothing:
        raise CheckSkippedError
    pairs = zip(_rows(nested, len(texts)), _rows(flat, len(texts)), strict=True)
    for number, (wanted, found) in enumerate(pairs):
        difference = _difference(wanted, found)
        if difference is not None:
            what = f"a flat list is answered otherwise than a nested one, at input {number}"
            fail(f"{what}: {difference}", nested, flat)


def _raw_scores(offer: Offer) -> None:
    plain = offer.post_once(_body(_TEXTS[:1]))
    answer = offer.post_once(_body(_TEXTS[:1], raw_scores=True, aggregation_strategy="none"))
    (scores,), (raw,) = _rows(plain, 1), _rows(answer, 1)
    labels = [set(span.results) for span in raw]
    seen = {span.label for span in scores}
    if not raw or len(labels[0]) == 1 or any(each != labels[0] for each in labels):
        fail("with `raw_scores` and no aggregation `results` has all labels of the model", answer)
    if not seen <= labels[0]:
        fail(f"`raw_scores` lacks the labels {brief(sorted(seen - labels[0]))}", plain, answer)


def _empty(offer: Offer) -> None:
    refused(offer.post({"inputs": []}), "an empty list of inputs")


PREDICT_TOKENS = Contract(
    name="BEI predict_tokens",
    routes=("/predict_tokens",),
    probe=lambda offer: post(offer.route, _body(_TEXTS[:1])),
    kinds=frozenset({"token_classifier"}),
    checks=(
        check(
            "predict-tokens-form", _form, "clients cut entities out of their text by these offsets"
        ),
        *own_answer_checks(
            "predict-tokens",
            lambda _: _dialogue(),
            why="entities of another text are a wrong answer",
        ),
        check("predict-tokens-aggregated", _aggregated, "clients ask for whole entities"),
        check(
            "predict-tokens-shapes",
            _shapes,
            "examples send texts in one list, and each in a list of its own",
        ),
        check("predict-tokens-raw-scores", _raw_scores, "callers choose a threshold by them"),
        check("predict-tokens-empty", _empty, "clients retry a 5xx"),
    ),
)
