"""What clients of rerankers, classifiers and entity models rely on."""

from typing import Any

from beicli.validation.endpoint.checks import (
    MAX_SCORE_DIFFERENCE,
    TEXTS,
    Contract,
    array_of,
    check,
    fail,
    is_count,
    is_number,
    mapping,
    refused,
    succeeded,
)
from beicli.validation.endpoint.exchange import Answer, Server

_QUERY = "What is the capital of Germany?"
_TEXTS = list(TEXTS[:4])
_ENTITY_TEXT = "Tim Cook works for Apple in Cupertino."


def _rank(server: Server, texts: list[str], **others: Any) -> Answer:
    return server.post("/rerank", {"query": _QUERY, "texts": texts, **others})


def _scores(answer: Answer, number: int, *, entries: Any, key: str) -> list[float]:
    """Return the scores by index; each text must have one.

    The best must come first, or, where a server keeps the order of the texts, the first.
    """
    scores: dict[int, float] = {}
    for entry in array_of(entries, number, answer, "the results"):
        values = mapping(entry, answer, "a result")
        index, score = values.get("index"), values.get(key)
        if not is_count(index) or index >= number or index in scores or not is_number(score):
            fail(f"a result must have an `index` of its own and a `{key}`: {values}", answer)
        scores[index] = score
    order = list(scores.values())
    if order != sorted(order, reverse=True) and list(scores) != list(range(number)):
        fail(f"the results must come best first; found {order}", answer)
    return [scores[index] for index in range(number)]


def _rerank_order(server: Server) -> None:
    answer = _rank(server, _TEXTS)
    first = _scores(answer, len(_TEXTS), entries=succeeded(answer), key="score")
    if not all(0 <= score <= 1 for score in first):
        fail(f"without `raw_scores` scores lie between 0 and 1; found {first}", answer)
    answer = _rank(server, _TEXTS[::-1])
    second = _scores(answer, len(_TEXTS), entries=succeeded(answer), key="score")[::-1]
    _same(first, second, answer, "a text's score depends on where it stands")


def _same(wanted: list[float], found: list[float], answer: Answer, what: str) -> None:
    furthest = max(abs(one - other) for one, other in zip(wanted, found, strict=True))
    if furthest > MAX_SCORE_DIFFERENCE:
        fail(f"{what}: {furthest:.3f} apart", answer)


def _rerank_texts(server: Server) -> None:
    answer = _rank(server, _TEXTS, return_text=True)
    entries = succeeded(answer)
    _scores(answer, len(_TEXTS), entries=entries, key="score")
    if any(entry.get("text") != _TEXTS[entry["index"]] for entry in entries):
        fail("with `return_text` each result has the text of its index", answer)


def _rerank_empty(server: Server) -> None:
    refused(_rank(server, []), "an empty list of texts")


def _documents(server: Server, route: str, **others: Any) -> Answer:
    body = {"model": server.model, "query": _QUERY, "documents": _TEXTS, **others}
    return server.post(route, body)


def _ranked_documents(server: Server, route: str) -> None:
    answer = _documents(server, route)
    body = mapping(succeeded(answer), answer, "the answer")
    scores = _scores(answer, len(_TEXTS), entries=body.get("results"), key="relevance_score")
    answer = _documents(server, route, top_n=2)
    body = mapping(succeeded(answer), answer, "the answer")
    best = array_of(body.get("results"), 2, answer, "`results` with `top_n: 2`")
    values = [mapping(entry, answer, "a result").get("relevance_score") for entry in best]
    found = [value for value in values if is_number(value)]
    if len(found) != len(values):
        fail(f"a result must have a `relevance_score`; found {values}", answer)
    _same(sorted(scores)[:-3:-1], found, answer, "`top_n` changes the best scores")


def _predict(server: Server, inputs: Any, **others: Any) -> Answer:
    return server.post("/predict", {"inputs": inputs, **others})


def _labels(entries: Any, answer: Answer) -> dict[str, float]:
    if not isinstance(entries, list) or not entries:
        fail("the answer must be a list of labels with scores", answer)
    found: dict[str, float] = {}
    for entry in entries:
        values = mapping(entry, answer, "an entry")
        label, score = values.get("label"), values.get("score")
        if not isinstance(label, str) or label in found or not is_number(score):
            fail(f"an entry must have a `label` of its own and a `score`: {values}", answer)
        found[label] = score
    return found


def _predict_form(server: Server) -> None:
    answer = _predict(server, _TEXTS[0])
    scores = list(_labels(succeeded(answer), answer).values())
    if not all(-1e-6 <= score <= 1 + 1e-6 for score in scores):  # noqa: PLR2004 - rounding
        fail(f"without `raw_scores` scores lie between 0 and 1; found {scores}", answer)
    if scores != sorted(scores, reverse=True):
        fail("labels must come best first", answer)


def _predict_batch(server: Server) -> None:
    alone = []
    for text in _TEXTS:
        answer = _predict(server, text)
        alone.append(_labels(succeeded(answer), answer))
    answer = _predict(server, [[text] for text in _TEXTS])
    rows = array_of(succeeded(answer), len(_TEXTS), answer, "the answer")
    for number, (wanted, row) in enumerate(zip(alone, rows, strict=True)):
        found = _labels(row, answer)
        if found.keys() != wanted.keys():
            fail(f"input {number} has other labels among others", answer)
        what = f"input {number} among others is not as it is alone"
        _same(list(wanted.values()), [found[label] for label in wanted], answer, what)


def _predict_empty(server: Server) -> None:
    refused(_predict(server, []), "an empty list of inputs")


def _entities(server: Server, **others: Any) -> Answer:
    return server.post("/predict_tokens", {"inputs": [[_ENTITY_TEXT]], **others})


def _spans(answer: Answer) -> list[dict[str, Any]]:
    (spans,) = array_of(succeeded(answer), 1, answer, "the answer")
    if not isinstance(spans, list):
        fail("the answer must hold a list for each text", answer)
    for span in spans:
        values = mapping(span, answer, "an entry")
        start, end = values.get("start"), values.get("end")
        if not is_count(start) or not is_count(end) or not isinstance(values.get("token"), str):
            fail(f"an entry must have `token`, `start` and `end`: {values}", answer)
        if start < end and _ENTITY_TEXT[start:end] != values["token"]:
            fail(f"`token` is not the text from `start` to `end`: {values}", answer)
        results = mapping(values.get("results"), answer, "`results`")
        if not results or not all(map(is_number, results.values())):
            fail(f"`results` must map labels to scores: {values}", answer)
    return spans


def _tokens_form(server: Server) -> None:
    answer = _entities(server)
    if not _spans(answer):
        fail("without aggregation every token has an entry", answer)


def _tokens_aggregated(server: Server) -> None:
    num_tokens = len(_spans(_entities(server)))
    answer = _entities(server, aggregation_strategy="max")
    spans = _spans(answer)
    if len(spans) > num_tokens or any(
        label.startswith(("B-", "I-")) or label == "O"
        for span in spans
        for label in span["results"]
    ):
        fail("aggregated entries are whole entities, with labels that have no `B-` or `I-`", answer)


RERANK = Contract(
    "TEI rerank",
    lambda server: _rank(server, _TEXTS),
    (
        check("rerank-order", "/rerank", _rerank_order, "the order is what a reranker is for"),
        check("rerank-texts", "/rerank", _rerank_texts, "clients show the text that comes back"),
        check("rerank-empty", "/rerank", _rerank_empty, "clients retry a 5xx"),
    ),
)
COHERE_RERANK = Contract(
    "Cohere rerank",
    lambda server: _documents(server, "/v2/rerank"),
    (
        check(
            "cohere-rerank",
            "/v2/rerank",
            lambda server: _ranked_documents(server, "/v2/rerank"),
            "the Cohere client reads `results`, best first, as many as `top_n` says",
        ),
    ),
)
JINA_RERANK = Contract(
    "Jina rerank",
    lambda server: _documents(server, "/v1/rerank"),
    (
        check(
            "jina-rerank",
            "/v1/rerank",
            lambda server: _ranked_documents(server, "/v1/rerank"),
            "clients of Jina and vLLM read `results`, best first, as many as `top_n` says",
        ),
    ),
)
PREDICT = Contract(
    "TEI predict",
    lambda server: _predict(server, _TEXTS[0]),
    (
        check("predict-form", "/predict", _predict_form, "clients take the first label"),
        check(
            "predict-batch",
            "/predict",
            _predict_batch,
            "labels of another text are a wrong answer",
        ),
        check("predict-empty", "/predict", _predict_empty, "clients retry a 5xx"),
    ),
)
PREDICT_TOKENS = Contract(
    "BEI predict_tokens",
    _entities,
    (
        check(
            "predict-tokens-form",
            "/predict_tokens",
            _tokens_form,
            "clients cut entities out of their text by these offsets",
        ),
        check(
            "predict-tokens-aggregated",
            "/predict_tokens",
            _tokens_aggregated,
            "clients ask for whole entities",
        ),
    ),
)
