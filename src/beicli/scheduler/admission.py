"""Whether a request may wait: how much waits already, and whether its caller has that much time.

Whole requests are admitted or refused, and whoever is refused hears when to come back. Pure: no
clock, no lock, no event loop.
"""

import math
import sys
from dataclasses import dataclass

from beicli.errors import (
    DeadlineExceededError,
    DeadlineTooSoonError,
    OverloadedError,
    QueueFullError,
)
from beicli.scheduler.terms import Priority

# An estimate is no promise: nobody is sent away for longer.
MAX_RETRY_AFTER_S = 60
MESSAGE = "Model is overloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How much may wait, anything unless it is said; where nothing waits, nothing is too large.

    max_wait_s: until a new request would be begun, as estimated; not judged while nobody knows.
    max_interactive_wait_s: the same of what is interactive; None for the same limit.
    max_waiting_tokens: of all requests, special tokens and padding to a step of length included.
    """

    max_wait_s: float = math.inf
    max_interactive_wait_s: float | None = None
    max_waiting_tokens: int = sys.maxsize

    def max_wait_of(self, priority: Priority) -> float:
        """Return how long a request of this priority may wait, in seconds."""
        if priority is Priority.INTERACTIVE and self.max_interactive_wait_s is not None:
            return self.max_interactive_wait_s
        return self.max_wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What waits when a request of some priority comes.

    wait_s: until that request would be begun, None while nobody knows.
    """

    num_sequences: int
    num_tokens: int
    priority: Priority
    wait_s: float | None

    def as_fields(self) -> dict[str, float]:
        """Return it as answers show it."""
        fields: dict[str, float] = {
            "waiting_inputs": self.num_sequences,
            "waiting_tokens": self.num_tokens,
        }
        if self.wait_s is not None:
            fields["estimated_wait_ms"] = round(self.wait_s * 1000)
        return fields


def check_limits(queue: QueueState, num_tokens: int, limits: AdmissionLimits) -> None:
    """Raise QueueFullError unless a request of so many tokens may wait behind what is there."""
    if queue.num_sequences == 0:
        return
    wait_s, max_wait_s = queue.wait_s or 0.0, limits.max_wait_of(queue.priority)
    if wait_s > max_wait_s:
        raise QueueFullError(
            MESSAGE,
            hint=f"it would wait about {wait_s:.1f} s, and {max_wait_s:g} s are allowed",
            retry_after_s=whole_seconds(wait_s - max_wait_s),
            queue=queue.as_fields(),
        )
    if queue.num_tokens + num_tokens > limits.max_waiting_tokens:
        raise QueueFullError(
            MESSAGE,
            hint=f"{queue.num_tokens} tokens wait, and with this request's {num_tokens} there "
            f"would be more than the {limits.max_waiting_tokens} that may",
            retry_after_s=whole_seconds(wait_s),
            queue=queue.as_fields(),
        )


def check_deadline(queue: QueueState, computing_s: float, remaining_s: float) -> None:
    """Raise DeadlineTooSoonError where waiting and computing would take longer than is left.

    Raises DeadlineExceededError where nothing is left.
    """
    if remaining_s <= 0:
        raise DeadlineExceededError(
            f"the deadline of this request passed {-remaining_s:.3f} s ago",
            hint="give it more time, also for the way here; a deadline that is a time of day "
            "compares this machine's clock with the client's",
        )
    if queue.wait_s is None or queue.wait_s + computing_s <= remaining_s:
        return
    missing_s = queue.wait_s + computing_s - remaining_s
    raise DeadlineTooSoonError(
        MESSAGE,
        hint=f"it would take about {queue.wait_s + computing_s:.3f} s, and its deadline is in "
        f"{remaining_s:.3f} s; give it more time, or send it again later",
        retry_after_s=whole_seconds(missing_s),
        queue=queue.as_fields(),
    )


def too_many_requests(max_requests: int, queue: QueueState) -> OverloadedError:
    """Return the refusal of a request that comes when as many as may are being served."""
    retry_after_s = whole_seconds(queue.wait_s or 0.0)
    when = "a second" if retry_after_s == 1 else f"{retry_after_s} seconds"
    return OverloadedError(
        MESSAGE,
        hint=f"{max_requests} requests are being served; retry after {when}",
        retry_after_s=retry_after_s,
        queue=queue.as_fields(),
    )


def whole_seconds(duration_s: float) -> int:
    """Round a wait up to what `Retry-After` can say."""
    return min(max(math.ceil(duration_s), 1), MAX_RETRY_AFTER_S)
