"""What a benchmark saw: failures, and the sums that successes go into.

Nothing here grows with the number of requests: a `Tally` holds counts and histograms, and what
several processes or rounds saw adds up.
"""

from dataclasses import dataclass, field

from beicli.bench.histogram import Histogram
from beicli.bench.texts import LengthClass

_HINTS = {
    "connection_refused": "is the server running? try `bei serve`, or name another with `--url`",
    "connection_failed": "check `--url`, and whether it is `http` or `https`",
    "name_not_found": "check the host in `--url`",
    "timeout": "try a lower `--concurrency` or `--rate`, or a longer `--timeout`",
    "invalid_response": "is this a server of the `--workload`? for embeddings it has to be "
    "OpenAI-compatible: try `--encoding-format float` or leave `--dimensions` out",
    "status_401": "give the server's key with `--api-key` or `BEI_API_KEY`",
    "status_403": "give the server's key with `--api-key` or `BEI_API_KEY`",
    "status_404": "give the root of the server as `--url`, and a `--model` that it serves",
    "status_405": "give the root of the server as `--url`",
    "status_413": "try a smaller `--batch-size` or shorter texts",
    "status_422": "try a smaller `--batch-size` or shorter texts",
    "status_424": "ask for the `--workload` that the server's model is made for",
    "status_429": "try a lower `--concurrency` or `--rate`",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed.

    kind: `status_` and the HTTP status, `timeout`, `connection_refused`, `connection_failed`,
    `connection_closed`, `name_not_found` or `invalid_response`.
    """

    kind: str
    message: str

    @property
    def hint(self) -> str:
        return _HINTS.get(self.kind, "the server's own log may tell more")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request.

    completed_at_s: on the clock of `time.perf_counter`.
    num_tokens: the server's count, None when it gave none. response_bytes: of the body.
    """

    completed_at_s: float
    num_tokens: int | None = None
    response_bytes: int = 0
    failure: Failure | None = None


def _coarse_histogram() -> Histogram:
    """Percentiles within 2 percent: a long run has many seconds."""
    return Histogram(parts=64)


@dataclass(slots=True)
class Second:
    """What completed within one second of a window."""

    num_requests: int = 0
    num_errors: int = 0
    latencies_s: Histogram = field(default_factory=_coarse_histogram)


@dataclass(slots=True)
class LengthTally:
    """The successes among the short requests of a mix, or among the long ones.

    num_tokens: None once an answer did not tell.
    """

    num_tokens: int | None = 0
    latencies_s: Histogram = field(default_factory=Histogram)

    def add(self, latency_s: float, num_tokens: int | None) -> None:
        self.latencies_s.add(latency_s)
        self.num_tokens = _sum_if_known(self.num_tokens, num_tokens)

    def merge(self, other: "LengthTally") -> None:
        self.latencies_s.merge(other.latencies_s)
        self.num_tokens = _sum_if_known(self.num_tokens, other.num_tokens)


def _sum_if_known(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


class Failures:
    """How often each kind of failure came, and the first of each."""

    def __init__(self) -> None:
        self._first: dict[str, Failure] = {}
        self._counts: dict[str, int] = {}

    def add(self, failure: Failure, count: int = 1) -> None:
        self._first.setdefault(failure.kind, failure)
        self._counts[failure.kind] = self._counts.get(failure.kind, 0) + count

    def merge(self, other: "Failures") -> None:
        for failure, count in other.most_common():
            self.add(failure, count)

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    def most_common(self) -> list[tuple[Failure, int]]:
        """Return the first failure of each kind and how many there were, most frequent first."""
        kinds = sorted(self._counts, key=lambda kind: -self._counts[kind])
        return [(self._first[kind], self._counts[kind]) for kind in kinds]


@dataclass(slots=True)
class Tally:
    """The requests that completed inside a window, which may consist of several rounds.

    has_unknown_tokens: an answer came without a token count, so the sum is not that of all.
    late_requests: counted requests that the client sent late.
    unfinished_requests: due within the window of an open loop, not answered in it.
    failures_outside: of requests that ended before or after the window, to explain an empty one.
    """

    num_requests: int = 0
    num_tokens: int = 0
    has_unknown_tokens: bool = False
    request_bytes: int = 0
    response_bytes: int = 0
    late_requests: int = 0
    unfinished_requests: int = 0
    latencies_s: Histogram = field(default_factory=Histogram)
    seconds: dict[int, Second] = field(default_factory=dict)
    by_length: dict[LengthClass, LengthTally] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)
    failures_outside: Failures = field(default_factory=Failures)
    num_outside: int = 0

    def add(
        self,
        reply: Reply,
        *,
        latency_s: float,
        second: int,
        request_bytes: int,
        length: LengthClass | None = None,
    ) -> None:
        """Count a request that completed in the window's `second`, from 0."""
        entry = self.seconds.get(second)
        if entry is None:
            entry = self.seconds[second] = Second()
        if reply.failure is not None:
            entry.num_errors += 1
            self.failures.add(reply.failure)
            return
        entry.num_requests += 1
        entry.latencies_s.add(latency_s)
        self.num_requests += 1
        self.latencies_s.add(latency_s)
        self.request_bytes += request_bytes
        self.response_bytes += reply.response_bytes
        if reply.num_tokens is None:
            self.has_unknown_tokens = True
        else:
            self.num_tokens += reply.num_tokens
        if length is not None:
            self.by_length.setdefault(length, LengthTally()).add(latency_s, reply.num_tokens)

    def add_outside(self, reply: Reply) -> None:
        """Remember that a request ended outside the window."""
        if reply.failure is not None:
            self.failures_outside.add(reply.failure)
        else:
            self.num_outside += 1

    def merge(self, other: "Tally") -> None:
        """Add what `other` saw in the same window, or in another part of it."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.has_unknown_tokens |= other.has_unknown_tokens
        self.latencies_s.merge(other.latencies_s)
        for number, theirs in other.seconds.items():
            ours = self.seconds.setdefault(number, Second())
            ours.num_requests += theirs.num_requests
            ours.num_errors += theirs.num_errors
            ours.latencies_s.merge(theirs.latencies_s)
        for length, its_tally in other.by_length.items():
            self.by_length.setdefault(length, LengthTally()).merge(its_tally)
        self.failures.merge(other.failures)
        self.failures_outside.merge(other.failures_outside)


_SUMS = (
    *("num_requests", "num_tokens", "request_bytes", "response_bytes"),
    *("late_requests", "unfinished_requests", "num_outside"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One uninterrupted stretch of load on one server.

    busiest_client_cpu_s: processor time of the busiest client process within the window.
    loop_lags_s: how late the client's event loop came to what was due.
    """

    tally: Tally
    window_s: float
    busiest_client_cpu_s: float
    loop_lags_s: Histogram
    is_interrupted: bool = False
    served_model: str | None = None
