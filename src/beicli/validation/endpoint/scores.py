"""Scores as numbers: probabilities and logits, compared as far as 16 bits allow."""

import math

# For logits: half a percent is what a step of bfloat16 may be, and layers add them up.
_MAX_LOGIT_DIFFERENCE = 0.15
_MAX_RELATIVE_DIFFERENCE = 0.03
# For probabilities.
_MAX_DIFFERENCE = 0.02
# Nearer to 0 and 1, 16 bits hold no difference any more.
_SMALLEST, _LARGEST = 1e-5, 0.998


def logit(probability: float) -> float:
    """Return the logit of a probability, of the nearest that 16 bits can tell from 0 and 1."""
    clipped = min(max(probability, _SMALLEST), _LARGEST)
    return math.log(clipped / (1 - clipped))


def logits(scores: list[float]) -> list[float]:
    """Return scores as logits, which they are already where one is outside of 0 to 1."""
    if all(0 <= score <= 1 for score in scores):
        return [logit(score) for score in scores]
    return scores


def are_same_logits(wanted: float, found: float) -> bool:
    """Whether two logits may be those of the same text."""
    furthest = max(abs(wanted), abs(found))
    tolerance = max(_MAX_LOGIT_DIFFERENCE, _MAX_RELATIVE_DIFFERENCE * furthest)
    return abs(wanted - found) <= tolerance


def different_logits(wanted: float, found: float) -> str | None:
    """Say how two logits differ; None if they may be those of the same text."""
    if are_same_logits(wanted, found):
        return None
    return f"logits {wanted:.3f} and {found:.3f}"


def are_same_probabilities(wanted: float, found: float) -> bool:
    """Whether two probabilities may be those of the same text."""
    return abs(wanted - found) <= _MAX_DIFFERENCE


def softmax(values: list[float]) -> list[float]:
    """Return the probabilities of logits."""
    highest = max(values)
    powers = [math.exp(value - highest) for value in values]
    return [power / sum(powers) for power in powers]


def sigmoid(value: float) -> float:
    """Return the probability of a logit."""
    return 1 / (1 + math.exp(-min(max(value, -700.0), 700.0)))
