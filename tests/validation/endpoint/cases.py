"""Servers with one thing wrong, and the rule that finds it."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from tests.server.fakes import FIRST_WORD_ID, FakeEngine
from tests.validation.endpoint.proxy import Change, Exchange

from beicli.engine.batch import Float32
from beicli.model.spec import Task

E = "/v1/embeddings"
TOKENS = "/predict_tokens"


class SparseEngine(FakeEngine):
    """The texts of the checks are unknown words, which must weigh something too."""

    def _pooled(self, sequences: list[list[int]]) -> Float32 | None:
        weights = super()._pooled(sequences)
        assert weights is not None
        weights[:, FIRST_WORD_ID] = [len(ids) for ids in sequences]
        return weights.astype(np.float32)


def make_engine(task: Task) -> FakeEngine:
    return (SparseEngine if task is Task.SPARSE_EMBEDDING else FakeEngine)(task=task)


def inputs_of(body: Any) -> Any:
    """What a body asks about."""
    found = body if isinstance(body, dict) else {}
    return next(
        (found[key] for key in ("input", "inputs", "texts", "documents") if key in found), ""
    )


def num_inputs(body: Any) -> int:
    inputs = inputs_of(body)
    return len(inputs) if isinstance(inputs, list) else 1


def rows(exchange: Exchange) -> list[Any]:
    """The part of a good answer that has an entry for each input."""
    value = exchange.value
    return value if isinstance(value, list) else value.get("data") or value["results"]


def when(route: str, is_asked: Callable[[Any], bool], spoil: Callable[[Exchange], Any]) -> Change:
    """Spoil good answers to certain requests."""

    def change(exchange: Exchange) -> None:
        if exchange.path == route and exchange.status == 200 and is_asked(exchange.body):
            spoil(exchange)

    return change


def answered(route: str, is_asked: Callable[[Any], bool], status: int) -> Change:
    """Answer certain requests with another status."""

    def change(exchange: Exchange) -> None:
        if exchange.path == route and is_asked(exchange.body):
            exchange.status, exchange.value = status, {"error": "x"}

    return change


def again(route: str, spoil: Callable[[Exchange], Any]) -> Change:
    """Spoil the answer to what was asked before: only requests sent together are sent twice."""
    seen = set()

    def is_asked(body: Any) -> bool:
        text = json.dumps(body)
        is_known = text in seen
        seen.add(text)
        return is_known

    return when(route, is_asked, spoil)


def shift(key: str) -> Callable[[Exchange], None]:
    """Give each entry what belongs to the next one."""

    def spoil(exchange: Exchange) -> None:
        entries = rows(exchange)
        values = [entry[key] for entry in entries]
        for entry, value in zip(entries, values[1:] + values[:1], strict=True):
            entry[key] = value

    return spoil


def others_scores(exchange: Exchange) -> None:
    for entry in rows(exchange):
        key = "score" if "score" in entry else "relevance_score"
        entry[key] = 0.003


def beyond_one(exchange: Exchange) -> None:
    for entry in exchange.value:
        entry["score"] += 1


def negated(exchange: Exchange) -> None:
    for entry in exchange.value["data"]:
        entry["embedding"] = [-number for number in entry["embedding"]]


def backwards(exchange: Exchange) -> None:
    rows(exchange).reverse()


def is_large(body: Any) -> bool:
    return 8 < num_inputs(body) <= 64


def is_always(body: Any) -> bool:
    return True


def has(key: str, value: Any) -> Callable[[Any], bool]:
    return lambda body: isinstance(body, dict) and key in body and body[key] == value


def indices_backwards(exchange: Exchange) -> None:
    entries = rows(exchange)
    for entry in entries:
        entry["index"] = len(entries) - 1 - entry["index"]


def half(exchange: Exchange) -> None:
    for row in exchange.value if isinstance(exchange.value[0], list) else [exchange.value]:
        for entry in row:
            entry["score"] /= 2


def no_offsets(exchange: Exchange) -> None:
    for row in exchange.value:
        for entry in row:
            entry["start"] = entry["end"] = 0


def in_bytes(exchange: Exchange) -> None:
    for (text,), row in zip(exchange.body["inputs"], exchange.value, strict=True):
        for entry in row:
            for key in ("start", "end"):
                entry[key] = len(text[: entry[key]].encode())


def ends_first(exchange: Exchange) -> None:
    for row in exchange.value:
        for entry in row:
            entry["start"], entry["end"] = entry["end"] + 9, entry["start"]


def emptied(exchange: Exchange) -> None:
    for row in exchange.value:
        row.clear()


def one_label(exchange: Exchange) -> None:
    for row in exchange.value:
        for entry in row:
            entry["results"] = dict([next(iter(entry["results"].items()))])


def weights_times(factor: float) -> Callable[[Exchange], None]:
    def spoil(exchange: Exchange) -> None:
        for row in exchange.value:
            for entry in row:
                entry["value"] *= factor

    return spoil


def numbers_times(factor: float) -> Callable[[Exchange], None]:
    def spoil(exchange: Exchange) -> None:
        for entry in exchange.value["data"]:
            entry["embedding"] = [factor * number for number in entry["embedding"]]

    return spoil


def is_flat(body: Any) -> bool:
    inputs = inputs_of(body)
    return isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], str)


V, S, R, C, N = (
    Task.EMBEDDING,
    Task.SPARSE_EMBEDDING,
    Task.RERANKING,
    Task.CLASSIFICATION,
    Task.TOKEN_CLASSIFICATION,
)
_EMBEDDINGS: list[tuple[str, Task, Change]] = [
    ("performance-client-embed", V, when(E, is_always, lambda e: e.value.pop("usage"))),
    ("openai-batch", V, when(E, is_large, shift("embedding"))),
    ("openai-parallel", V, again(E, negated)),
    ("openai-dimensions", V, when(E, has("dimensions", 4), numbers_times(0.6))),
    ("openai-strange-values", V, answered(E, has("dimensions", 0), 500)),
    ("openai-ignored-values", V, answered(E, has("dimensions", 0), 200)),
    ("openai-token-ids", V, answered(E, has("input", [[5, 6, 7]]), 500)),
    ("openai-batch-limit", V, answered(E, lambda body: num_inputs(body) > 64, 500)),
    ("tei-batch", V, when("/embed", is_large, backwards)),
    ("tei-parallel", V, again("/embed", lambda e: e.value[0].reverse())),
    ("tei-no-truncate", V, answered("/embed", has("truncate", False), 200)),
    ("tei-sparse-form", S, when("/embed_sparse", is_always, emptied)),
    ("tei-sparse-form", S, when("/embed_sparse", is_always, weights_times(-1))),
    ("tei-sparse-order", S, when("/embed_sparse", lambda b: num_inputs(b) > 1, weights_times(5))),
    ("tei-sparse-batch", S, when("/embed_sparse", is_large, backwards)),
    ("tei-sparse-parallel", S, again("/embed_sparse", emptied)),
    ("tei-sparse-empty", S, answered("/embed_sparse", has("inputs", []), 500)),
]
_SCORES: list[tuple[str, Task, Change]] = [
    ("rerank-form", R, when("/rerank", is_always, beyond_one)),
    ("rerank-order", R, when("/rerank", is_always, shift("score"))),
    ("rerank-order", R, when("/rerank", is_always, indices_backwards)),
    ("rerank-batch", R, when("/rerank", is_large, shift("score"))),
    ("rerank-parallel", R, again("/rerank", others_scores)),
    ("rerank-equal-scores", R, when("/rerank", is_always, others_scores)),
    ("rerank-raw-scores", R, answered("/rerank", has("raw_scores", True), 500)),
    ("predict-batch", C, when("/predict", is_large, backwards)),
    ("predict-parallel", C, again("/predict", half)),
    ("predict-raw-scores", C, answered("/predict", has("raw_scores", True), 500)),
    ("predict-sum", C, when("/predict", is_always, half)),
    (
        "predict-pairs",
        C,
        answered("/predict", lambda b: num_inputs(b) == 2 and len(b["inputs"][0]) == 2, 500),
    ),
    ("predict-no-truncate", C, answered("/predict", has("truncate", False), 200)),
    *(
        case
        for prefix, route in (("cohere", "/v2/rerank"), ("jina", "/v1/rerank"))
        for case in (
            (f"{prefix}-rerank", R, when(route, has("top_n", 2), indices_backwards)),
            (
                f"{prefix}-rerank-order",
                R,
                when(route, lambda body: num_inputs(body) > 1, indices_backwards),
            ),
            (f"{prefix}-rerank-batch", R, when(route, is_large, indices_backwards)),
            (f"{prefix}-rerank-parallel", R, again(route, others_scores)),
            (f"{prefix}-rerank-equal-scores", R, when(route, is_always, others_scores)),
        )
    ),
]
_ENTITIES: list[tuple[str, Task, Change]] = [
    ("predict-tokens-form", N, when(TOKENS, is_always, no_offsets)),
    ("predict-tokens-form", N, when(TOKENS, is_always, in_bytes)),
    ("predict-tokens-form", N, when(TOKENS, is_always, ends_first)),
    ("predict-tokens-order", N, when(TOKENS, lambda body: num_inputs(body) > 1, backwards)),
    ("predict-tokens-batch", N, when(TOKENS, is_large, backwards)),
    ("predict-tokens-parallel", N, again(TOKENS, emptied)),
    ("predict-tokens-aggregated", N, when(TOKENS, has("aggregation_strategy", "max"), emptied)),
    ("predict-tokens-shapes", N, when(TOKENS, is_flat, backwards)),
    ("predict-tokens-raw-scores", N, when(TOKENS, has("raw_scores", True), one_label)),
    ("predict-tokens-empty", N, answered(TOKENS, has("inputs", []), 500)),
]
CASES = [*_EMBEDDINGS, *_SCORES, *_ENTITIES]
