"""On what terms a request is computed: how urgent it is, and until when anybody wants it.

Whoever serves a request sets its terms around the call of the pipeline, as callers set deadlines in
a context; the scheduler is given them with the request's sequences.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class Priority(StrEnum):
    """Which of two queues a request waits in.

    interactive: somebody waits for the answer. bulk: many texts, of which only the rate matters.
    """

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller asks for beside the result.

    priority: None to decide by the request's size. deadline: on the monotonic clock, in seconds;
    infinite without one.
    """

    priority: Priority | None = None
    deadline: float = float("inf")

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Let them be the terms of what is computed in the body."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


NO_TERMS = Terms()

_current: ContextVar[Terms] = ContextVar("terms", default=NO_TERMS)


def current_terms() -> Terms:
    """Return the terms of the request that is being served."""
    return _current.get()
