"""What a request's headers say of its urgency and of the time its client gives it.

`request-timeout-ms` and `request-deadline-ms` are what the Baseten Performance Client sends,
`x-timeout-ms` is what several gateways do; the soonest holds.
"""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from beicli.errors import DeadlineExceededError, RequestError
from beicli.scheduler.terms import NO_TERMS, Priority, Terms

PRIORITY = b"x-bei-priority"
# From now, and since 1970; both in milliseconds.
TIMEOUTS = (b"request-timeout-ms", b"x-timeout-ms")
DEADLINE = b"request-deadline-ms"
# Not whatever `float` takes: `nan`, `infinity` and `1e3` are no times.
MILLISECONDS = r"[0-9]{1,15}(\.[0-9]{1,15})?"
_NAMES = (PRIORITY, *TIMEOUTS, DEADLINE)


def read_terms(headers: Mapping[bytes, bytes]) -> Terms:
    """Return the terms that a request's headers ask for, its time beginning now.

    Raises RequestError for a value that says nothing.
    """
    if not any(name in headers for name in _NAMES):
        return NO_TERMS
    remaining_s = [_milliseconds(name, headers[name]) for name in TIMEOUTS if name in headers]
    if DEADLINE in headers:
        remaining_s.append(_milliseconds(DEADLINE, headers[DEADLINE]) - time.time())
    return Terms(
        priority=_priority(headers[PRIORITY]) if PRIORITY in headers else None,
        deadline=time.monotonic() + min(remaining_s, default=math.inf),
    )


@asynccontextmanager
async def within(deadline: float) -> AsyncIterator[None]:
    """Cancel the block at `deadline`, on the monotonic clock, with DeadlineExceededError."""
    if math.isinf(deadline):
        yield
        return
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceededError(
            "the deadline of this request passed while it was being served",
            hint="give it more time, or send fewer texts in a request",
        ) from error


def _milliseconds(name: bytes, value: bytes) -> float:
    text = value.decode("latin-1").strip()
    if not re.fullmatch(MILLISECONDS, text):
        raise RequestError(
            f"header `{name.decode()}` is `{text[:50]}`, not a number of milliseconds",
            hint="leave it out to wait as long as it takes",
        )
    return float(text) / 1000


def _priority(value: bytes) -> Priority:
    text = value.decode("latin-1").strip().lower()
    try:
        return Priority(text)
    except ValueError as error:
        raise RequestError(
            f"header `{PRIORITY.decode()}` is `{text[:50]}`, not "
            + " or ".join(f"`{each}`" for each in Priority),
            hint="leave it out to decide by the request's size",
        ) from error
