"""How much each API key may ask for: so many requests at the same time, and so many a second.

What is kept are two numbers a key, however many requests come. Keys go by their place in the list
of keys; nothing here knows one.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from starlette.types import Scope

from beicli.server.errors import KeyLimitError
from beicli.server.options import KeyLimits

_SCOPE_KEY = "bei.key_number"
# Far below what a clock tells: who waited as long as was said is not sent away for a rounding.
_ROUNDING_S = 1e-6


class TokenBucket:
    """Lets `burst` requests in at once, and then one whenever 1 / requests_per_s has passed.

    Pure: it is told the time, in seconds on any clock that does not go back.
    """

    def __init__(self, *, requests_per_s: float, burst: int) -> None:
        self._interval_s = 1 / requests_per_s
        self._depth_s = burst * self._interval_s
        # All there is to remember: when the bucket will be full again.
        self._full_at = -math.inf

    def take(self, now: float) -> float:
        """Take a token and return 0.0; or take none, and return the seconds until there is one."""
        full_at = max(self._full_at, now) + self._interval_s
        wait_s = full_at - now - self._depth_s
        if wait_s > _ROUNDING_S:
            return wait_s
        self._full_at = full_at
        return 0.0


class KeyGate:
    """What one key may still do; a context manager around each of its requests."""

    def __init__(self, limits: KeyLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._num_inside = 0
        self._bucket = None
        if limits.requests_per_s is not None:
            self._bucket = TokenBucket(requests_per_s=limits.requests_per_s, burst=limits.burst)

    def __enter__(self) -> None:
        """Let a request in; raises KeyLimitError, and then counts nothing."""
        limit = self._limits.max_requests
        if limit is not None and self._num_inside >= limit:
            raise KeyLimitError(
                f"this API key may have {limit} request{'' if limit == 1 else 's'} running at once",
                hint="wait for one of them to be answered, or retry after a second",
            )
        wait_s = 0.0 if self._bucket is None else self._bucket.take(self._clock())
        if wait_s > 0:
            raise self._too_fast(math.ceil(wait_s))
        self._num_inside += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._num_inside -= 1

    def _too_fast(self, retry_after_s: int) -> KeyLimitError:
        when = "a second" if retry_after_s == 1 else f"{retry_after_s} seconds"
        return KeyLimitError(
            f"this API key may ask {self._limits.requests_per_s:g} times a second, and "
            f"{self._limits.burst} at once after a pause",
            hint=f"retry after {when}; several inputs in one request count as one",
            retry_after_s=retry_after_s,
        )


class KeyGates:
    """The gates of all keys; without limits they stand open."""

    def __init__(
        self,
        limits: KeyLimits | None = None,
        *,
        num_keys: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gates: list[KeyGate] = []
        if limits is not None and limits != KeyLimits():
            self._gates = [KeyGate(limits, clock) for _ in range(num_keys)]
        self._open: AbstractContextManager[None] = nullcontext()

    def of(self, scope: Scope) -> AbstractContextManager[None]:
        """Return the gate of the key that a request came with."""
        return self._gates[scope[_SCOPE_KEY]] if self._gates else self._open


def note_key(scope: Scope, number: int) -> None:
    """Keep the place of a request's key in the list of keys, for `KeyGates.of`."""
    scope[_SCOPE_KEY] = number
