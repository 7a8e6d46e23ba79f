"""Embeddings in fewer bits, without calibration: every vector is converted for itself.

The same vector always gives the same bytes, whichever request it comes in, so an index may be
filled over years.
"""

import numpy as np
from numpy.typing import NDArray

from beicli.engine.batch import Float32

Int8 = NDArray[np.int8]
UInt8 = NDArray[np.uint8]

# What a number of 1, the largest in a vector of unit length, becomes.
INT8_SCALE = 127
_OFFSET = 128


def to_int8(vectors: Float32) -> Int8:
    """Round 127 times each number; [num_vectors, dimension], rows of unit length.

    One scale for all numbers keeps dot products and cosines as they are, up to that scale. With
    sentence embedders, causal ones with a few very large numbers included, a row keeps a cosine of
    0.998 and more to what it was. A finer scale that cuts off large numbers does better with the
    former, 0.9998, and ruins the latter, 0.89; ranges for each dimension, as sentence-transformers
    takes them, need a body of calibration texts. Numbers beyond 1 are cut off.
    """
    scaled = np.rint(vectors * np.float32(INT8_SCALE))
    numbers: Int8 = np.clip(scaled, -INT8_SCALE, INT8_SCALE).astype(np.int8)
    return numbers


def to_uint8(vectors: Float32) -> UInt8:
    """Return `to_int8` with 128 added, as Cohere and sentence-transformers relate the two."""
    return (to_int8(vectors).astype(np.int16) + _OFFSET).astype(np.uint8)


def to_ubinary(vectors: Float32) -> UInt8:
    """Return one bit a number, set if it is above 0, eight to a byte, the first one highest.

    vectors: [num_vectors, dimension]; returns [num_vectors, ceil(dimension / 8)], padded with zero
    bits. Source: sentence-transformers `quantize_embeddings`, precision `ubinary`.
    """
    return np.packbits(vectors > 0, axis=-1)


def to_binary(vectors: Float32) -> Int8:
    """Return `to_ubinary` less 128, in signed bytes, as Cohere and sentence-transformers do."""
    return (to_ubinary(vectors).astype(np.int16) - _OFFSET).astype(np.int8)
