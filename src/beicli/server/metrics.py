"""What `/metrics` says, under the names text-embeddings-inference dashboards look for.

Every inference request is counted once: in `te_request_count` when its body has been understood,
then in either `te_request_success` or `te_request_failure`. A request that is refused before its
body is understood appears in `te_request_failure` alone.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric

from beicli import __version__
from beicli.artifact.manifest import Manifest
from beicli.pipeline.result_cache import CacheStatistics
from beicli.pipeline.results import Usage
from beicli.scheduler.scheduler import FinishedBatch
from beicli.server.canary import CanaryFigures
from beicli.server.collectors import CacheCollector, CanaryCollector, SlotCollector
from beicli.server.metric_groups import (
    DURATION_BUCKETS,
    TOKEN_BUCKETS,
    BatchMetrics,
    Durations,
    FamilyMetrics,
)
from beicli.server.replicas.pages import MetricsPages

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUILD_LABELS = ("version", "model", "task", "backend", "precision")

# The client library ends every counter in `_total`; the `te_` names have no such ending.
_TE_COUNTER = re.compile(rb"\b(te_\w+)_total\b")

# One gauge more for each series, with the time it began: noise for whoever reads the page.
disable_created_metrics()  # type: ignore[no-untyped-call]  # as published


# Whose counters a request is counted in, beside those of all requests; a handler that only
# tokenises has none.
Family = Literal["embed", "predict"]


@dataclass(frozen=True, slots=True)
class RequestSize:
    """How much a request asks for; is_batch: whether it came as a list, if only of one."""

    num_inputs: int
    num_characters: int
    is_batch: bool


class ServerMetrics:
    """The server's own registry; used on the event loop only.

    pages: those of all replicas, where this server is one of several.
    """

    def __init__(self, pages: MetricsPages | None = None) -> None:
        self._pages = pages
        self._registry = CollectorRegistry()
        count = self._counter("te_request_count", "Inference requests understood", "method")
        success = self._counter("te_request_success", "Inference requests answered", "method")
        self._count = {is_batch: count.labels(_method(is_batch)) for is_batch in (False, True)}
        self._success = {is_batch: success.labels(_method(is_batch)) for is_batch in (False, True)}
        self._failure = self._counter(
            "te_request_failure", "Inference requests not answered, by reason", "err"
        )
        self._durations = Durations("te_request", "From complete body to answer", self._registry)
        self._input_length = self._histogram(
            "te_request_input_length", "Tokens an input, before truncation", TOKEN_BUCKETS
        )
        self._families = {
            family: FamilyMetrics(family, self._registry) for family in get_args(Family)
        }
        self._queue_size = Gauge("te_queue_size", "Inputs waiting", registry=self._registry)
        self._estimated_wait = Gauge(
            "bei_estimated_wait_seconds",
            "Time until what waits is computed; NaN until enough batches were seen",
            registry=self._registry,
        )
        self._batches = BatchMetrics(self._registry)
        self._slots = Gauge(
            "bei_slots", "Forward passes that may run at once", registry=self._registry
        )
        self._inside = Gauge(
            "bei_open_requests",
            "Inference requests admitted and not answered yet",
            registry=self._registry,
        )
        self._connections = Gauge(
            "bei_open_connections", "Connections of clients", registry=self._registry
        )
        self._encode_duration = self._histogram(
            "bei_encode_duration",
            "Turning a result into an answer's body, seconds",
            DURATION_BUCKETS,
        )
        self._truncated = self._counter(
            "bei_truncated_inputs", "Inputs cut to the model's length limit"
        )
        self._answers = self._counter(
            "bei_requests", "Requests of every kind, by route and HTTP status", "route", "status"
        )
        self._failed = self._counter(
            "bei_failed_requests", "Requests of every kind refused or failed, by reason", "reason"
        )
        self._reloads = self._reload_counters()
        self._cache: CacheCollector | None = None
        self._slot_times: SlotCollector | None = None
        self._canary: CanaryCollector | None = None
        self._build_info = Gauge(
            "bei_build_info",
            "What is served, and by which version; always 1",
            BUILD_LABELS,
            registry=self._registry,
        )

    def describe(self, manifest: Manifest, *, served_model_name: str, num_slots: int) -> None:
        """Say what is served, and with how many slots."""
        self._slots.set(num_slots)
        self._build_info.clear()
        self._build_info.labels(
            version=__version__,
            model=served_model_name,
            task=manifest.model.task,
            backend=manifest.backend,
            precision=manifest.precision,
        ).set(1)

    def watch_queue(
        self, num_waiting: Callable[[], int], estimate_wait_s: Callable[[], float | None]
    ) -> None:
        """Read the gauges of the queue from these whenever the page is asked for."""
        self._queue_size.set_function(num_waiting)
        self._estimated_wait.set_function(lambda: _or_nan(estimate_wait_s()))

    def watch_slots(self, busy_s: Callable[[], float]) -> None:
        """Say on the page how long slots have been busy, counting on from those before."""
        if self._slot_times is None:
            self._slot_times = SlotCollector(busy_s)
            self._registry.register(self._slot_times)
        else:
            self._slot_times.go_on_with(busy_s)

    def watch_requests(self, num_inside: Callable[[], int]) -> None:
        """Read from this how many requests are inside whenever the page is asked for."""
        self._inside.set_function(num_inside)

    def watch_connections(self, num_open: Callable[[], int]) -> None:
        """Read from this how many connections are open whenever the page is asked for."""
        self._connections.set_function(num_open)

    def watch_canary(self, figures: Callable[[], CanaryFigures] | None) -> None:
        """Say on the page how the canary does, instead of one before; None if there is none."""
        if self._canary is None:
            self._canary = CanaryCollector(figures)
            self._registry.register(self._canary)
        else:
            self._canary.go_on_with(figures)

    def watch_cache(self, statistics: Callable[[], CacheStatistics | None]) -> None:
        """Say on the page what becomes of the cache of results, counting on from one before."""
        if self._cache is None:
            self._cache = CacheCollector(statistics)
            self._registry.register(self._cache)
        else:
            self._cache.go_on_with(statistics)

    def reloaded(self, result: Literal["success", "failure"]) -> None:
        """Account for a reload."""
        self._reloads[result].inc()

    def observe_batch(self, batch: FinishedBatch) -> None:
        """Account for one forward pass."""
        self._batches.observe(batch)

    def started(self, family: Family | None, size: RequestSize) -> None:
        """Account for a request that has been understood."""
        self._count[size.is_batch].inc()
        if family is not None:
            self._families[family].count.inc(size.num_inputs)

    def succeeded(
        self,
        family: Family | None,
        size: RequestSize,
        usage: Usage | None,
        *,
        answer_s: float,
        total_s: float,
    ) -> None:
        """Account for a request that is about to be answered.

        answer_s: until its result was there; total_s: until it was encoded as well.
        """
        self._success[size.is_batch].inc()
        self._durations.observe(total_s, usage)
        self._encode_duration.observe(total_s - answer_s)
        if family is not None:
            self._families[family].success.inc(size.num_inputs)
            self._families[family].durations.observe(answer_s, usage)
        if usage is not None:
            self._truncated.inc(usage.num_truncated_inputs)
            for length in usage.input_lengths:
                self._input_length.observe(length)

    def request_failed(self, reason: str) -> None:
        """Account for a request that gets an error, or that nobody waits for any more."""
        self._failure.labels(reason).inc()

    def answered(self, route: str, status: str) -> None:
        """Account for an answer of any route; both labels must be from a closed set."""
        self._answers.labels(route, status).inc()

    def failed(self, reason: str) -> None:
        """Account for a request of any route that got no good answer; from a closed set."""
        self._failed.labels(reason).inc()

    def render_whole_server(self) -> bytes:
        """Return the page with what the other replicas say, if there are any."""
        page = self.render()
        return page if self._pages is None else self._pages.add_others(page)

    def keep_page(self) -> None:
        """Let the other replicas know what this one counted."""
        assert self._pages is not None, "there are other replicas"
        self._pages.keep(self.render())

    def render(self) -> bytes:
        """Return the page of this process in the Prometheus text format."""
        return _TE_COUNTER.sub(rb"\1", generate_latest(self))

    def collect(self) -> Iterable[Metric]:
        """Return what is on the page."""
        return self._registry.collect()

    @property
    def engines(self) -> Sequence["ServerMetrics"]:
        """Those that count for an engine each; one engine needs no other."""
        return (self,)

    def _reload_counters(self) -> dict[str, Counter]:
        reloads = self._counter("bei_reloads", "Reloads, by how they ended", "result")
        # From the start: of a series that begins at one, nothing sees that it has risen.
        return {result: reloads.labels(result) for result in ("success", "failure")}

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def _histogram(self, name: str, documentation: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, documentation, buckets=buckets, registry=self._registry)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _method(is_batch: bool) -> str:  # noqa: FBT001 - the only argument
    return "batch" if is_batch else "single"
