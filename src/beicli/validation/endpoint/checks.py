"""What a check is, and the small questions that all of them ask of an answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from beicli.findings import Level, Rule
from beicli.validation.endpoint.exchange import Answer, Server

Vector = NDArray[np.float64]

SHORT_TEXT = "The quick brown fox jumps over the lazy dog."
# Different languages, lengths and meanings: a mix-up or a dependence on neighbours shows.
TEXTS = (
    "Berlin is the capital of Germany.",
    "Wie wird das Wetter morgen? 🌧️",
    "機械学習は楽しい",
    SHORT_TEXT,
    "A long sentence about databases, indexes, queries, joins, transactions and locks. " * 3,
)
NUM_LONG_WORDS = 20_000
# A vector alone and among others: 16-bit servers keep 0.9999.
MIN_COSINE = 0.999
# The same for scores between 0 and 1.
MAX_SCORE_DIFFERENCE = 0.02


class CheckFailedError(Exception):
    """The server did something else than the contract says."""

    def __init__(self, what: str, answer: Answer) -> None:
        super().__init__(what)
        self.what = what
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Check:
    """One thing a contract says. run: raises CheckFailedError or NoAnswerError."""

    rule: Rule
    route: str
    run: Callable[[Server], None]


@dataclass(frozen=True, slots=True)
class Contract:
    """What clients of one kind rely on.

    probe: sends the plainest request there is; by its answer the server offers the contract or
    not.
    """

    name: str
    probe: Callable[[Server], Answer]
    checks: tuple[Check, ...]


def check(
    name: str, route: str, run: Callable[[Server], None], why: str, *, level: Level = Level.ERROR
) -> Check:
    """Make a check and its rule."""
    return Check(Rule(name=name, level=level, why=why), route, run)


def fail(what: str, answer: Answer) -> NoReturn:
    """Raise CheckFailedError, with the start of the answer if it was not a success."""
    said = "" if answer.is_success else f" (answer {answer.status}: {answer.excerpt or 'empty'})"
    raise CheckFailedError(what + said, answer)


def succeeded(answer: Answer) -> Any:
    """Return the JSON value of an answer that must be a success."""
    if not answer.is_success:
        fail("a valid request was refused", answer)
    if answer.value is None:
        fail(f"the answer is no JSON: {answer.excerpt}", answer)
    return answer.value


def refused(answer: Answer, what: str) -> None:
    """See that a request was refused as the client's fault."""
    if not answer.is_refusal:
        fail(f"{what} was answered with {answer.status}; 4xx was wanted", answer)


def array_of(value: Any, length: int, answer: Answer, what: str) -> list[Any]:
    """Return `value` if it is a list of that length."""
    if not isinstance(value, list) or len(value) != length:
        found = f"{len(value):,} entries" if isinstance(value, list) else type(value).__name__
        fail(f"{what} must be a list of {length:,}; found {found}", answer)
    return value


def mapping(value: Any, answer: Answer, what: str) -> dict[str, Any]:
    """Return `value` if it is an object."""
    if not isinstance(value, dict):
        fail(f"{what} must be an object; found {type(value).__name__}", answer)
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def vector(value: Any, answer: Answer, what: str = "an embedding") -> Vector:
    """Return `value` as a vector if it is a list of finite numbers, not all of them 0."""
    if not isinstance(value, list) or not value or not all(map(is_number, value)):
        fail(f"{what} must be a list of finite numbers", answer)
    found = np.array(value, dtype=np.float64)
    if not found.any():
        fail(f"{what} is all zeros", answer)
    return found


def cosine(left: Vector, right: Vector, answer: Answer) -> float:
    """Return the cosine of two vectors, which must be equally long."""
    if left.shape != right.shape:
        fail(f"one embedding has {len(left):,} dimensions, another {len(right):,}", answer)
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def same_vector(alone: Vector, found: Vector, answer: Answer, what: str) -> None:
    """See that two vectors of the same text are the same."""
    similarity = cosine(alone, found, answer)
    if similarity < MIN_COSINE:
        fail(f"{what}: cosine {similarity:.4f}, at least {MIN_COSINE} was wanted", answer)
