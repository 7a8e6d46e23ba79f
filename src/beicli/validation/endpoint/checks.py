"""What a check is, and the small questions that all of them ask of an answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

from beicli.findings import Level, Rule
from beicli.validation.endpoint.exchange import Answer, Request, post, post_text
from beicli.validation.endpoint.server import Server
from beicli.validation.endpoint.words import shown

SHORT_TEXT = "The quick brown fox jumps over the lazy dog."
# Different languages, lengths and meanings: a mix-up or a dependence on neighbours shows.
TEXTS = (
    "Berlin is the capital of Germany.",
    "Wie wird das Wetter morgen? 🌧️",
    "機械学習は楽しい",
    SHORT_TEXT,
    "A long sentence about databases, indexes, queries, joins, transactions and locks. " * 3,
)
_MAX_VALUE_CHARACTERS = 120


class CheckFailedError(Exception):
    """The server did something else than the contract says; answers: those that show it."""

    def __init__(self, what: str, *answers: Answer) -> None:
        super().__init__(what)
        self.what = what
        self.answers = answers


class CheckSkippedError(Exception):
    """The question could not be asked of this server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A route that answers the plainest request of a contract, and how to ask it more.

    model: what requests call the model. max_batch_size: no valid request may hold more inputs;
    None if the server does not say. takes_texts: whether a text may stand outside a list.
    """

    server: Server
    route: str
    model: str = "model"
    max_batch_size: int | None = None
    takes_texts: bool = True

    def post(self, body: object, *, as_python: str | None = None) -> Answer:
        """Send a body."""
        return self.server.send(post(self.route, body, as_python=as_python))

    def post_once(self, body: object) -> Answer:
        """Send a body that was perhaps sent before; then the first answer counts."""
        return self.server.send_once(post(self.route, body))

    def post_text(self, content: str) -> Answer:
        """Send a body that is no JSON value."""
        return self.server.send(post_text(self.route, content))

    def at_most(self, wanted: int, *, at_least: int = 2) -> int:
        """Return how many inputs to send; raises CheckSkippedError if they are too few to ask."""
        number = wanted if self.max_batch_size is None else min(wanted, self.max_batch_size)
        if number < at_least:
            raise CheckSkippedError
        return number

    def one(self, text: str) -> str | list[str]:
        """Return a single input as the route takes it."""
        return text if self.takes_texts else [text]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing a contract says.

    run: raises CheckFailedError, CheckSkippedError, NoAnswerError or RateLimitedError.
    """

    rule: Rule
    run: Callable[[Offer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What clients of one kind rely on.

    routes: where it may be, the usual place first. probe: the plainest request there is; by its
    answer the server offers the contract or not. other_form: what another API would ask at the
    same route, to tell whether the route is that API's. kinds: the models that `/info` names whose
    clients need it. is_optional: servers may lack it or have something else there.
    looks_right: whether a JSON value can be an answer of this contract at all.
    """

    name: str
    routes: tuple[str, ...]
    probe: Callable[[Offer], Request]
    checks: tuple[Check, ...]
    other_form: Callable[[Offer], Request] | None = None
    kinds: frozenset[str] = frozenset()
    is_optional: bool = False
    looks_right: Callable[[Any], bool] = lambda _: True


def check(
    name: str, run: Callable[[Offer], None], why: str, *, level: Level = Level.ERROR
) -> Check:
    """Make a check and its rule."""
    return Check(Rule(name=name, level=level, why=why), run)


def fail(what: str, *answers: Answer) -> NoReturn:
    """Raise CheckFailedError, with the start of the last answer if it was not a success."""
    last = answers[-1]
    said = "" if last.is_success else f" (answer {last.status}: {last.excerpt or 'empty'})"
    raise CheckFailedError(what + said, *answers)


def succeeded(answer: Answer) -> Any:
    """Return the JSON value of an answer that must be a success."""
    if not answer.is_success:
        fail("a valid request was refused", answer)
    value = answer.value
    if value is None:
        fail(f"the answer is no JSON: {answer.excerpt}", answer)
    return value


def refused(answer: Answer, what: str) -> None:
    """See that a request was refused as the client's fault."""
    if answer.proves_nothing:
        raise CheckSkippedError
    if not answer.is_refusal:
        fail(f"{what} was answered with {answer.status}; 4xx was wanted", answer)


def not_crashed(answer: Answer, what: str) -> None:
    """See that the server does not say a request was its own fault."""
    if not answer.is_success and not answer.is_refusal and not answer.proves_nothing:
        fail(f"{what} was answered with {answer.status}; a success or 4xx was wanted", answer)


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


def brief(value: object) -> str:
    """Return a value of the server's as a part of a message."""
    return shown(value, max_characters=_MAX_VALUE_CHARACTERS)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number, also as a float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number from 0 that fits into a machine's."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
