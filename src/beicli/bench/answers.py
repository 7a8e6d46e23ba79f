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


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerComparison:
    """The agreement on each text that was compared.

    finding: why nothing could be compared, or what stands out; None when nothing does.
    """

    workload: WorkloadKind
    texts: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
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
            "worst": [{"text": text, "value": value} for value, text in worst_first[:_NUM_WORST]],
            "finding": self.finding,
        }


def compare_answers(
    workload: WorkloadKind, texts: Sequence[str], pairs: Sequence[tuple[bytes, bytes, int]]
) -> AnswerComparison:
    """Compare complete answers; pairs: both answers to the next so many texts.

    Vectors of different lengths cannot be compared, which is then the finding.
    """
    values: list[float] = []
    for first, second, num_texts in pairs:
        if workload is WorkloadKind.EMBEDDINGS:
            one, other = read_vectors(first), read_vectors(second)
            if one.shape != other.shape:
                return AnswerComparison(
                    workload=workload,
                    finding=f"vectors of {one.shape[1]:,} numbers, {other.shape[1]:,} of the other "
                    "server: these are not the same model, or not the same `--dimensions`",
                )
            values.extend(_cosines(one, other).tolist())
        else:
            values.extend(_agreements(workload, first, second, num_texts))
    return AnswerComparison(workload=workload, texts=tuple(texts), values=tuple(values))


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
    if workload is WorkloadKind.RERANK:
        scores = (read_scores(content, num_texts=num_texts) for content in (first, second))
        return [1 - abs(one - other) for one, other in zip(*scores, strict=True)]
    if workload is WorkloadKind.PREDICT:
        labels = (read_labels(content, num_texts=num_texts) for content in (first, second))
        # The best label comes first.
        return [float(next(iter(a)) == next(iter(b))) for a, b in zip(*labels, strict=True)]
    entities = (read_entities(content, num_texts=num_texts) for content in (first, second))
    return [
        len(set(one) & set(other)) / len(set(one) | set(other)) if one or other else 1.0
        for one, other in zip(*entities, strict=True)
    ]
