"""From pooled rows to what a caller asked for: truncated dimensions, unit length. Numpy only."""

import numpy as np

from beicli.engine.batch import Float32

# Below this length a vector has no direction; sentence-transformers divides by the same floor.
MIN_NORM = 1e-12


def l2_normalize(vectors: Float32) -> Float32:
    """Scale each row to length 1; a row of zeros stays zeros.

    vectors: [num_vectors, dimension]. Norms are summed in float64.
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    scaled: Float32 = (vectors / np.maximum(norms, MIN_NORM)).astype(np.float32)
    return scaled


def truncate_dimensions(vectors: Float32, dimensions: int | None) -> Float32:
    """Keep the first `dimensions` of each row, as Matryoshka models are trained for.

    vectors: [num_vectors, dimension]; None keeps all. The caller renormalises afterwards.
    """
    return vectors if dimensions is None else vectors[:, :dimensions]
