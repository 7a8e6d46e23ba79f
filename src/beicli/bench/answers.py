"""How far apart the answers of two servers to the same texts are.

Pure. Every measure is 1 for equal answers and falls as they differ.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from beicli.bench.predictions import read_entities, read_labels, read_scores
from beicli.bench.settings import WorkloadKind

Float64 = NDArray[np.float64]

_MEASURES = {
    WorkloadKind.EMBEDDINGS: "cosine similarity",
    WorkloadKind.RERANK: "1 - score difference",
    WorkloadKind.PREDICT: "same first label",
    WorkloadKind.PREDICT_TOKENS: "share of equal entities",
}
_NUM_WORST = 5
# What half precision leaves of a length of 1.
_NORM_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerComparison:
    """The agreement on each text that was compared.

    order_agreement: of rerankers, Spearman's rank correlation: 1 for one order, -1 for its reverse.
    finding: why nothing could be compared, or what stands out; None when nothing does.
    """

    workload: WorkloadKind
    texts: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    order_agreement: float | None = None
    finding: str | None = None

    @property
    def measure(self) -> str:
        return _MEASURES[self.workload]

    def to_json(self) -> dict[str, Any]:
        worst_first = sorted(zip(self.values, self.texts, strict=True), key=lambda pair: pair[0])
        return {
            "num_compared": len(self.values),
            "measure": self.measure,
            "min": min(self.values, default=0.0),
            "mean": sum(self.values) / len(self.values) if self.values else 0.0,
            "order_agreement": self.order_agreement,
            "worst": [{"text": text, "value": value} for value, text in worst_first[:_NUM_WORST]],
            "finding": self.finding,
        }


def compare_answers(
    workload: WorkloadKind, texts: Sequence[str], pairs: Sequence[tuple[bytes, bytes, int]]
) -> AnswerComparison:
    """Compare complete answers; pairs: both answers to the next so many texts.

    A reranker's are to be answers to one query, or their order would mean nothing.
    """
    if workload is WorkloadKind.EMBEDDINGS:
        return _compare_vectors(texts, pairs)
    if workload is WorkloadKind.RERANK:
        return _compare_scores(texts, pairs)
    values = [value for pair in pairs for value in _agreements(workload, *pair)]
    return AnswerComparison(workload=workload, texts=tuple(texts), values=tuple(values))


def _compare_vectors(
    texts: Sequence[str], pairs: Sequence[tuple[bytes, bytes, int]]
) -> AnswerComparison:
    """Vectors of different lengths cannot be compared, which is then the finding."""
    values: list[float] = []
    norms: tuple[list[float], list[float]] = [], []
    for first, second, _ in pairs:
        one, other = read_vectors(first), read_vectors(second)
        if one.shape != other.shape:
            return AnswerComparison(
                workload=WorkloadKind.EMBEDDINGS,
                finding=f"vectors of {one.shape[1]:,} numbers, {other.shape[1]:,} of the other "
                "server: these are not the same model, or not the same `--dimensions`",
            )
        values.extend(_cosines(one, other).tolist())
        for found, vectors in zip(norms, (one, other), strict=True):
            found.extend(np.linalg.norm(vectors, axis=1).tolist())
    return AnswerComparison(
        workload=WorkloadKind.EMBEDDINGS,
        texts=tuple(texts),
        values=tuple(values),
        finding=_norm_finding(*norms),
    )


def _norm_finding(one: Sequence[float], other: Sequence[float]) -> str | None:
    """Say so when one server normalises its vectors and the other does not: no cosine shows it."""
    is_normalized, is_other_normalized = (
        all(abs(norm - 1) <= _NORM_TOLERANCE for norm in norms) for norms in (one, other)
    )
    if is_normalized == is_other_normalized:
        return None
    whose, norms = ("the other server's", other) if is_normalized else ("this server's", one)
    return (
        f"{whose} vectors are not normalised, their lengths are {min(norms):.3g} to "
        f"{max(norms):.3g}: dot products of the two servers differ whatever the cosines say"
    )


def _compare_scores(
    texts: Sequence[str], pairs: Sequence[tuple[bytes, bytes, int]]
) -> AnswerComparison:
    one: list[float] = []
    other: list[float] = []
    for first, second, num_texts in pairs:
        one.extend(read_scores(first, num_texts=num_texts))
        other.extend(read_scores(second, num_texts=num_texts))
    return AnswerComparison(
        workload=WorkloadKind.RERANK,
        texts=tuple(texts),
        values=tuple(1 - abs(first - second) for first, second in zip(one, other, strict=True)),
        order_agreement=_rank_correlation(np.array(one), np.array(other)),
    )


def _rank_correlation(one: Float64, other: Float64) -> float | None:
    """Return Spearman's; None where either has but one score for everything."""
    ranks = [_ranks(scores) - (len(scores) - 1) / 2 for scores in (one, other)]
    size = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / size if size > 0 else None


def _ranks(scores: Float64) -> Float64:
    """Number the scores from 0 by size; equal ones share the mean of their numbers."""
    _, positions, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means: Float64 = np.cumsum(counts) - (counts + 1) / 2
    return means[positions]


def read_vectors(content: bytes) -> Float64:
    """Return the vectors of a complete answer by index, [num_texts, length]."""
    items = sorted(orjson.loads(content)["data"], key=lambda item: item["index"])
    return np.stack([_vector(item["embedding"]) for item in items])


def _vector(embedding: str | list[float]) -> Float64:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4").astype(np.float64)
    return np.asarray(embedding, dtype=np.float64)


def _cosines(one: Float64, other: Float64) -> Float64:
    """Return [num_texts]; a vector of zeros is unlike every other."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products = np.einsum("ij,ij->i", one, other)
    cosines: Float64 = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return cosines


def _agreements(workload: WorkloadKind, first: bytes, second: bytes, num_texts: int) -> list[float]:
    """Return a value for each text."""
    if workload is WorkloadKind.PREDICT:
        labels = (read_labels(content, num_texts=num_texts) for content in (first, second))
        # The best label comes first.
        return [float(next(iter(a)) == next(iter(b))) for a, b in zip(*labels, strict=True)]
    entities = (read_entities(content, num_texts=num_texts) for content in (first, second))
    return [
        len(set(one) & set(other)) / len(set(one) | set(other)) if one or other else 1.0
        for one, other in zip(*entities, strict=True)
    ]
