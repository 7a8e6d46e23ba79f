"""Embeddings as numbers: read from JSON, and compared as far as 16 bits allow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from beicli.validation.endpoint.checks import fail, is_number
from beicli.validation.endpoint.exchange import Answer

Vector = NDArray[np.float64]

# A vector alone and among others: 16-bit servers keep 0.9999.
_MIN_COSINE = 0.999
_MAX_LENGTH_ERROR = 0.02


def vector(value: Any, answer: Answer, what: str = "an embedding") -> Vector:
    """Return `value` as a vector if it is a list of finite numbers, not all of them 0."""
    if not isinstance(value, list) or not value or not all(map(is_number, value)):
        fail(f"{what} must be a list of finite numbers", answer)
    found = np.array(value, dtype=np.float64)
    if not found.any():
        fail(f"{what} is all zeros", answer)
    return found


def length(found: Vector) -> float:
    """Return the length of a vector; no numbers are too large for it, but the length may be."""
    scale = float(np.abs(found).max())
    return scale * float(np.linalg.norm(found / scale))


def cosine(left: Vector, right: Vector) -> float:
    """Return the cosine of two vectors that are equally long and not zero."""
    left, right = (each / np.abs(each).max() for each in (left, right))
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def has_unit_length(found: Vector) -> bool:
    """Whether the length is 1, as far as 16 bits allow."""
    return abs(length(found) - 1) <= _MAX_LENGTH_ERROR


def different_direction(wanted: Vector, found: Vector) -> str | None:
    """Say how the directions of two vectors differ; None if they do not."""
    if wanted.shape != found.shape:
        return f"{len(wanted):,} numbers and {len(found):,}"
    similarity = cosine(wanted, found)
    if similarity < _MIN_COSINE:
        return f"cosine {similarity:.4f}, at least {_MIN_COSINE} was wanted"
    return None


def different_numbers(wanted: Vector, found: Vector) -> str | None:
    """Say how two vectors differ, in direction or length; None if they do not."""
    lengths = (length(wanted), length(found))
    if abs(lengths[0] - lengths[1]) > _MAX_LENGTH_ERROR * max(lengths):
        return different_direction(wanted, found) or "lengths {:.3g} and {:.3g}".format(*lengths)
    return different_direction(wanted, found)
