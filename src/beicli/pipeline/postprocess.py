"""From the model's outputs to what a caller asked for. Numpy only."""

import numpy as np

from beicli.engine.batch import Float32, Int32
from beicli.errors import RequestError
from beicli.model.spec import ScoreActivation
from beicli.pipeline.results import SparseVector

# Below this length a vector has no direction; sentence-transformers divides by the same floor.
MIN_NORM = 1e-12


def l2_normalize(vectors: Float32) -> Float32:
    """Scale each row to length 1; a row of zeros stays zeros.

    vectors: [num_vectors, dimension]. Norms are summed in float64.
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    scaled: Float32 = (vectors / np.maximum(norms, MIN_NORM)).astype(np.float32)
    return scaled


def check_dimensions(dimensions: int | None, *, full: int) -> None:
    """Raise RequestError unless vectors of `full` dimensions can be truncated to `dimensions`."""
    if dimensions is None:
        return
    if dimensions <= 0:
        raise RequestError(
            "Input validation error: `dimensions` should be positive",
            hint=f"{dimensions} was given",
            param="dimensions",
        )
    if dimensions > full:
        raise RequestError(
            "Input validation error: `dimensions` should be smaller than the maximum "
            "embedding dimension.",
            hint=f"{dimensions} was given; this model's embeddings have {full} dimensions",
            param="dimensions",
        )


def truncate_dimensions(vectors: Float32, dimensions: int | None) -> Float32:
    """Keep the first `dimensions` of each row, as Matryoshka models are trained for.

    vectors: [num_vectors, dimension]; None keeps all. The caller renormalises afterwards.
    """
    return vectors if dimensions is None else vectors[:, :dimensions]


def softmax(logits: Float32) -> Float32:
    """Turn each row's logits into probabilities that add up to 1; [..., num_labels]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    scores: Float32 = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return scores


def sigmoid(logits: Float32) -> Float32:
    """Turn each logit into a probability of its own; any shape."""
    # In this form neither large positive nor large negative logits overflow.
    decayed = np.exp(-np.abs(logits.astype(np.float64)))
    scores: Float32 = np.where(logits >= 0, 1 / (1 + decayed), decayed / (1 + decayed)).astype(
        np.float32
    )
    return scores


def activate(logits: Float32, activation: ScoreActivation) -> Float32:
    """Turn logits, [..., num_labels], into scores between 0 and 1."""
    return softmax(logits) if activation is ScoreActivation.SOFTMAX else sigmoid(logits)


def relevance_logits(logits: Float32, *, label: int, activation: ScoreActivation) -> Float32:
    """Return one number a row whose sigmoid is the score of `label`; [num_rows].

    logits: [num_rows, num_labels]. With softmax this is the label's log-odds against the others.
    """
    if activation is ScoreActivation.SIGMOID or logits.shape[1] == 1:
        return logits[:, label]
    wide = logits.astype(np.float64)
    # The differences first: between large logits the sum of the others' powers would be lost.
    others = np.delete(wide - wide[:, label, None], label, axis=1)
    log_odds: Float32 = -np.logaddexp.reduce(others, axis=1).astype(np.float32)
    return log_odds


def to_sparse(weights: Float32) -> SparseVector:
    """Keep what is not zero of a vector over the vocabulary, [vocab_size]."""
    indices: Int32 = np.flatnonzero(weights).astype(np.int32)
    return SparseVector(indices, weights[indices])


def own(rows: Float32) -> Float32:
    """Return `rows` without what else their memory holds, if that is a lot.

    What one request got of a batch is a view, and would keep the whole batch's outputs alive.
    """
    is_small_part = rows.base is not None and rows.base.nbytes > 2 * rows.nbytes
    return rows.copy() if is_small_part else rows
