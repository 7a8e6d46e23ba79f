"""How far the numbers of an engine are from the float32 reference: the measures and their limits.

Vectors are compared by cosine, classifiers by the scores people see. Nothing of it shares code with
what serves. The gate of a build and the golden inputs of a finished engine are judged alike.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.golden import Float32, Sample, excerpt
from beicli.artifact.manifest import Precision
from beicli.artifact.report import (
    AccuracyReport,
    CosineAgreement,
    ScoreAgreement,
    ScoreReport,
    VectorLimits,
    VectorReport,
)
from beicli.errors import AccuracyError
from beicli.model.spec import ModelSpec, ScoreActivation, Task

Float64 = NDArray[np.float64]

# The lowest cosine any text may have. bf16 keeps 8 bits of mantissa: real texts reach 0.9999.
MIN_COSINE: dict[Precision, float] = {
    "f32": 0.9999,
    "bf16": 0.999,
    "f16": 0.999,
    "int8": 0.95,
    "fp8": 0.99,
    "fp4": 0.98,
}
# In 8 bit it is the many that are judged, and the order of what is similar: 16 bit is far above.
INT8_LIMITS = VectorLimits(
    cosine_mean=0.995,
    cosine_first_percentile=0.98,
    neighbour_overlap=0.95,
    similarity_correlation=0.995,
)
# A percentile of a handful says nothing; the golden inputs of an engine are so few.
_MIN_SAMPLES_FOR_LIMITS = 50
# The furthest any score, between 0 and 1, may be off. Measured in bf16: 0.005 for 2 layers, 0.014
# for 6 layers and 35 labels, 0.028 for a causal model of 30 layers.
MAX_SCORE_DIFFERENCE: dict[Precision, float] = {
    "f32": 1e-4,
    "bf16": 5e-2,
    "f16": 1e-2,
    "int8": 0.1,
    "fp8": 0.1,
    "fp4": 0.15,
}
# The share of the decisions clearer than that which must come out alike.
MIN_AGREEMENT: dict[Precision, float] = {
    "f32": 1.0,
    "bf16": 0.99,
    "f16": 0.99,
    "int8": 0.99,
    "fp8": 0.99,
    "fp4": 0.98,
}
NUM_NEIGHBOURS = 10
# Two vectors are one pair, which is always in order.
MIN_VECTORS_TO_RANK = 3
NUM_WORST_SAMPLES = 5


def compare(
    reference: Sequence[Float32],
    candidate: Sequence[Float32],
    samples: Sequence[Sample],
    *,
    spec: ModelSpec,
    precision: Precision,
) -> AccuracyReport:
    """Compare the outputs of each sample, as `reference_outputs` describes them."""
    for sample, wanted, found in zip(samples, reference, candidate, strict=True):
        if wanted.shape != found.shape:
            raise AccuracyError(
                f"the engine gives an output of shape {found.shape} for {excerpt(sample)!r}, the "
                f"reference {wanted.shape}"
            )
    if spec.task in {Task.EMBEDDING, Task.SPARSE_EMBEDDING}:
        return compare_vectors(
            np.stack(reference),
            np.stack(candidate),
            samples,
            precision=precision,
            is_sparse=spec.task is Task.SPARSE_EMBEDDING,
        )
    assert spec.score_activation is not None, "classifiers have one"
    return compare_scores(
        [_activate(output, spec.score_activation) for output in reference],
        [_activate(output, spec.score_activation) for output in candidate],
        samples,
        precision=precision,
    )


def compare_golden(
    golden: Sequence[tuple[Sample, Float32]],
    outputs: Sequence[Float32],
    *,
    spec: ModelSpec,
    precision: Precision,
) -> AccuracyReport:
    """Compare what an engine computes for golden inputs with what is stored of them.

    golden: as `read_golden` returns them. Raises AccuracyError if an output is of another shape.
    """
    # Stored as rows; a vector is one row.
    reference = [
        rows.reshape(found.shape) if rows.size == found.size else rows
        for (_, rows), found in zip(golden, outputs, strict=True)
    ]
    samples = [sample for sample, _ in golden]
    return compare(reference, outputs, samples, spec=spec, precision=precision)


def compare_vectors(
    reference: Float32,
    candidate: Float32,
    samples: Sequence[Sample],
    *,
    precision: Precision,
    is_sparse: bool = False,
) -> VectorReport:
    """Compare two sets of vectors, both [num_samples, dimension]."""
    units = [_unit(vectors) for vectors in (reference, candidate)]
    cosines = np.einsum("td,td->t", *units)
    # Two vectors without a direction agree, and what is no number agrees with nothing: it must
    # not sort behind the numbers.
    cosines[~reference.any(axis=1) & ~candidate.any(axis=1)] = 1.0
    cosines = np.nan_to_num(cosines, nan=-1.0)
    worst = np.argsort(cosines, kind="stable")[:NUM_WORST_SAMPLES]
    has_limits = precision == "int8" and len(samples) >= _MIN_SAMPLES_FOR_LIMITS
    return VectorReport(
        precision=precision,
        num_samples=len(samples),
        cosine_min=float(cosines.min()),
        cosine_min_allowed=MIN_COSINE[precision],
        cosine_first_percentile=float(np.percentile(cosines, 1)),
        cosine_mean=float(cosines.mean()),
        neighbour_overlap=neighbour_overlap(*units),
        similarity_correlation=similarity_correlation(*units),
        limits=INT8_LIMITS if has_limits else None,
        index_overlap=index_overlap(reference, candidate) if is_sparse else None,
        max_abs_difference=float(np.abs(reference - candidate).max()),
        worst_samples=tuple(
            CosineAgreement(text=excerpt(samples[i]), cosine=float(cosines[i])) for i in worst
        ),
    )


def compare_scores(
    reference: Sequence[Float64],
    candidate: Sequence[Float64],
    samples: Sequence[Sample],
    *,
    precision: Precision,
) -> ScoreReport:
    """Compare scores between 0 and 1, [num_labels] or [num_tokens, num_labels] a sample."""
    allowed = MAX_SCORE_DIFFERENCE[precision]
    rows = [np.atleast_2d(scores) for scores in reference]
    found = [np.atleast_2d(scores) for scores in candidate]
    # What is no number is as far off as can be.
    differences = np.array(
        [
            np.nan_to_num(np.abs(a - b), nan=1.0).max(initial=0.0)
            for a, b in zip(rows, found, strict=True)
        ]
    )
    worst = np.argsort(-differences, kind="stable")[:NUM_WORST_SAMPLES]
    decisions = _decisions(np.concatenate(rows), np.concatenate(found), min_margin=allowed)
    return ScoreReport(
        precision=precision,
        num_samples=len(samples),
        max_difference=float(differences.max()),
        max_difference_allowed=allowed,
        mean_difference=float(differences.mean()),
        num_decisions=len(decisions),
        agreement=float(decisions.mean()) if len(decisions) else 1.0,
        agreement_allowed=MIN_AGREEMENT[precision],
        worst_samples=tuple(
            ScoreAgreement(text=excerpt(samples[i]), difference=float(differences[i]))
            for i in worst
        ),
    )


def neighbour_overlap(reference: Float64, candidate: Float64) -> float:
    """Mean share of each row's nearest other rows, by cosine, that both sets agree on.

    Both [num_vectors, dimension], of unit length.
    """
    num_neighbours = min(NUM_NEIGHBOURS, len(reference) - 1)
    if num_neighbours < 1:
        return 1.0
    nearest = []
    for vectors in (reference, candidate):
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(np.argpartition(-similarity, num_neighbours - 1, axis=1)[:, :num_neighbours])
    shared = [
        len(set(a.tolist()) & set(b.tolist())) for a, b in zip(nearest[0], nearest[1], strict=True)
    ]
    return sum(shared) / (num_neighbours * len(shared))


def similarity_correlation(reference: Float64, candidate: Float64) -> float:
    """Spearman's correlation of the similarities of all pairs of rows; 1 is the same order.

    Both [num_vectors, dimension], of unit length. It is what a benchmark of similar sentences
    loses at most, if the reference ranks them as people do.
    """
    if len(reference) < MIN_VECTORS_TO_RANK:
        return 1.0
    pairs = np.triu_indices(len(reference), k=1)
    ranks = [_ranks((vectors @ vectors.T)[pairs]) for vectors in (reference, candidate)]
    centred = [rank - rank.mean() for rank in ranks]
    norms = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    return float(centred[0] @ centred[1]) / norms if norms else 1.0


def index_overlap(reference: Float32, candidate: Float32) -> float:
    """Mean share of the indices above 0 in either vector that are above 0 in both; rows."""
    both = ((reference > 0) & (candidate > 0)).sum(axis=1)
    either = ((reference > 0) | (candidate > 0)).sum(axis=1)
    return float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean())


def _decisions(reference: Float64, candidate: Float64, *, min_margin: float) -> NDArray[np.bool_]:
    """Whether each decision the reference is sure of comes out alike.

    Both [num_rows, num_labels]. With several labels a row decides for its best; with one, two
    rows next to each other in the reference's order decide which comes first.
    """
    if reference.shape[1] > 1:
        second, best = np.sort(reference, axis=1)[:, -2:].T
        is_sure = best - second > min_margin
        is_same = reference.argmax(axis=1) == candidate.argmax(axis=1)
        return np.asarray(is_same[is_sure], dtype=np.bool_)
    order = np.argsort(reference[:, 0], kind="stable")
    return np.array(
        [
            candidate[low, 0] < candidate[high, 0]
            for low, high in pairwise(order)
            if reference[high, 0] - reference[low, 0] > min_margin
        ],
        dtype=np.bool_,
    )


def _activate(logits: Float32, activation: ScoreActivation) -> Float64:
    wide = logits.astype(np.float64)
    if activation is ScoreActivation.SIGMOID:
        return np.asarray(0.5 * (1 + np.tanh(wide / 2)))
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _ranks(values: Float64) -> Float64:
    """Rank `values`, equal ones all with the mean of their places."""
    _, places, counts = np.unique(np.round(values, 9), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[places])


def _unit(vectors: Float32) -> Float64:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))
