"""What clients of rerankers rely on: `/rerank` of TEI, and Cohere's and Jina's."""

from collections.abc import Sequence
from typing import Any

from beicli.findings import Level
from beicli.validation.endpoint.batches import Dialogue, own_answer_checks
from beicli.validation.endpoint.checks import (
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
    not_crashed,
    refused,
    succeeded,
)
from beicli.validation.endpoint.exchange import Answer, post
from beicli.validation.endpoint.scores import are_same_logits, different_logits, logits

_QUERY = "What is the capital of Germany?"
_TEXTS = TEXTS[:4]
_EQUAL = 1e-6
_SAME_ORDER = "the order is what a reranker is for"
_UNTRAINED = "scores that are all equal rank nothing: the head may have lost its weights"


def _texts(offer: Offer) -> list[str]:
    return list(_TEXTS[: offer.max_batch_size])


def _body(texts: Sequence[str], **others: Any) -> dict[str, Any]:
    return {"query": _QUERY, "texts": list(texts), **others}


def _documents_body(offer: Offer, texts: Sequence[str], **others: Any) -> dict[str, Any]:
    return {"model": offer.model, "query": _QUERY, "documents": list(texts), **others}


def _scores(answer: Answer, entries: list[Any], number: int, key: str) -> dict[int, float]:
    """Return the scores by index, in the order of the answer; each has an index of its own."""
    scores: dict[int, float] = {}
    for entry in entries:
        values = mapping(entry, answer, "a result")
        index, score = values.get("index"), values.get(key)
        if not is_count(index) or index >= number or index in scores or not is_number(score):
            what = f"a result must have an `index` of its own and a `{key}`"
            fail(f"{what}: {brief(values)}", answer)
        scores[index] = score
    return scores


def _check_order(scores: dict[int, float], answer: Answer) -> None:
    order = list(scores.values())
    if order != sorted(order, reverse=True):
        fail(f"the results must come best first; found {brief(order)}", answer)


def _in_order_of_texts(answer: Answer, number: int) -> list[float]:
    """Return TEI's scores by index; results come best first, or all in the order of the texts."""
    entries = array_of(succeeded(answer), number, answer, "the answer")
    scores = _scores(answer, entries, number, "score")
    if list(scores) != list(range(number)):
        _check_order(scores, answer)
    return [scores[index] for index in range(number)]


def _relevance(answer: Answer, number: int, num_documents: int) -> dict[int, float]:
    """Return Cohere's scores by index, best first; number: how many results must be there."""
    body = mapping(succeeded(answer), answer, "the answer")
    entries = array_of(body.get("results"), number, answer, "`results`")
    scores = _scores(answer, entries, num_documents, "relevance_score")
    _check_order(scores, answer)
    return scores


def _dialogue(offer: Offer) -> Dialogue[float]:
    """Compare raw scores where the server has them: near 0 and 1 others hold no difference."""
    plain = offer.post_once(_body(_texts(offer)))
    raw = offer.post_once(_body(_texts(offer), raw_scores=True))
    has_raw = raw.is_success and raw.content != plain.content
    others = {"raw_scores": True} if has_raw else {}

    def read(answer: Answer, number: int) -> list[float]:
        scores = _in_order_of_texts(answer, number)
        return scores if has_raw else logits(scores)

    return Dialogue(
        body=lambda texts: _body(texts, **others),
        body_of_one=lambda text: _body([text], **others),
        read=read,
        difference=different_logits,
        texts=_TEXTS,
    )


def _documents_dialogue(offer: Offer) -> Dialogue[float]:
    def read(answer: Answer, number: int) -> list[float]:
        scores = _relevance(answer, number, number)
        return logits([scores[index] for index in range(number)])

    return Dialogue(
        body=lambda texts: _documents_body(offer, texts),
        body_of_one=lambda text: _documents_body(offer, [text]),
        read=read,
        difference=different_logits,
        texts=_TEXTS,
    )


def _form(offer: Offer) -> None:
    texts = _texts(offer)
    answer = offer.post_once(_body(texts))
    scores = _in_order_of_texts(answer, len(texts))
    if not all(0 <= score <= 1 for score in scores):
        fail(f"without `raw_scores` scores lie between 0 and 1; found {brief(scores)}", answer)


def _raw_scores(offer: Offer) -> None:
    texts = _texts(offer)
    answer = offer.post_once(_body(texts, raw_scores=True))
    not_crashed(answer, "`raw_scores: true`")
    if answer.is_success:
        _in_order_of_texts(answer, len(texts))


def _return_text(offer: Offer) -> None:
    texts = _texts(offer)
    answer = offer.post(_body(texts, return_text=True))
    entries = succeeded(answer)
    _in_order_of_texts(answer, len(texts))
    if any(entry.get("text") != texts[entry["index"]] for entry in entries):
        fail("with `return_text` each result has the text of its index", answer)


def _empty(offer: Offer) -> None:
    refused(offer.post(_body([])), "an empty list of texts")


def _check_unequal(scores: list[float], answer: Answer) -> None:
    if max(scores) - min(scores) <= _EQUAL:
        fail(f"{len(scores)} different texts all have the score {scores[0]:.6g}", answer)


def _unequal(offer: Offer) -> None:
    texts = list(_TEXTS[: offer.at_most(len(_TEXTS))])
    answer = offer.post_once(_body(texts))
    _check_unequal(_in_order_of_texts(answer, len(texts)), answer)


def _unequal_documents(offer: Offer) -> None:
    texts = list(_TEXTS[: offer.at_most(len(_TEXTS))])
    answer = offer.post_once(_documents_body(offer, texts))
    _check_unequal(list(_relevance(answer, len(texts), len(texts)).values()), answer)


def _top_n(offer: Offer) -> None:
    texts = list(_TEXTS[: offer.at_most(len(_TEXTS))])
    number = min(2, len(texts) - 1)
    whole = offer.post_once(_documents_body(offer, texts))
    scores = _relevance(whole, len(texts), len(texts))
    best = offer.post_once(_documents_body(offer, texts, top_n=number))
    found = list(_relevance(best, number, len(texts)))
    wanted = list(scores)[:number]
    by_index = dict(zip(scores, logits(list(scores.values())), strict=True))
    if not all(
        are_same_logits(by_index[one], by_index[other])
        for one, other in zip(wanted, found, strict=True)
    ):
        what = f"`top_n: {number}` gives the indices {found}; all results begin with {wanted}"
        fail(what, whole, best)


RERANK = Contract(
    name="TEI rerank",
    routes=("/rerank",),
    probe=lambda offer: post(offer.route, _body(_texts(offer))),
    other_form=lambda offer: post(offer.route, _documents_body(offer, _texts(offer))),
    kinds=frozenset({"reranker"}),
    checks=(
        check("rerank-form", _form, "clients read a score for the index of each text"),
        *own_answer_checks("rerank", _dialogue, why=_SAME_ORDER),
        check("rerank-equal-scores", _unequal, _UNTRAINED, level=Level.WARNING),
        check(
            "rerank-raw-scores",
            _raw_scores,
            "Baseten's Performance Client always sends `raw_scores`",
        ),
        check("rerank-texts", _return_text, "clients show the text that comes back"),
        check("rerank-empty", _empty, "clients retry a 5xx"),
    ),
)


def _documents_contract(name: str, routes: tuple[str, ...], prefix: str, why: str) -> Contract:
    return Contract(
        name=name,
        routes=routes,
        probe=lambda offer: post(offer.route, _documents_body(offer, _texts(offer))),
        checks=(
            check(f"{prefix}-rerank", _top_n, why),
            *own_answer_checks(f"{prefix}-rerank", _documents_dialogue, why=_SAME_ORDER),
            check(
                f"{prefix}-rerank-equal-scores",
                _unequal_documents,
                _UNTRAINED,
                level=Level.WARNING,
            ),
        ),
    )


COHERE_RERANK = _documents_contract(
    "Cohere rerank",
    ("/v2/rerank",),
    "cohere",
    "the Cohere client reads `results`, best first, as many as `top_n` says",
)
JINA_RERANK = _documents_contract(
    "Jina rerank",
    ("/v1/rerank", "/rerank"),
    "jina",
    "clients of Jina and vLLM read `results`, best first, as many as `top_n` says",
)
