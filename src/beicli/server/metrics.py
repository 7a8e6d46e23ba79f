"""What `/metrics` says, under the names text-embeddings-inference dashboards look for.

Every inference request is counted once: in `te_request_count` when its body has been understood,
then in either `te_request_success` or `te_request_failure`. A request that is refused before its
body is understood appears in `te_request_failure` alone.
"""

import re
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from beicli.pipeline.pipeline import EmbeddingResult
from beicli.scheduler.scheduler import FinishedBatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DURATION_BUCKETS = [1e-5 * 1.5**n for n in range(1, 36)]
SIZE_BUCKETS = [2**n for n in range(13)]
TOKEN_BUCKETS = [2**n for n in range(21)]

# The client library ends every counter in `_total`; the `te_` names have no such ending.
_TE_COUNTER = re.compile(rb"\b(te_\w+)_total\b")

# One gauge more for each series, with the time it began: noise for whoever reads the page.
disable_created_metrics()  # type: ignore[no-untyped-call]  # as published


class ServerMetrics:
    """The server's own registry; used on the event loop only."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        count = self._counter("te_request_count", "Inference requests understood", "method")
        success = self._counter("te_request_success", "Inference requests answered", "method")
        self._count = {is_batch: count.labels(_method(is_batch)) for is_batch in (False, True)}
        self._success = {is_batch: success.labels(_method(is_batch)) for is_batch in (False, True)}
        self._failure = self._counter(
            "te_request_failure", "Inference requests not answered, by reason", "err"
        )
        self._embed_count = self._counter("te_embed_count", "Inputs to embed")
        self._embed_success = self._counter("te_embed_success", "Inputs embedded")
        self._durations = {
            "request": self._duration("te_request_duration", "From complete body to answer"),
            "tokenization": self._duration(
                "te_request_tokenization_duration", "Tokenising a request's inputs"
            ),
            "queue": self._duration("te_request_queue_duration", "Waiting, mean over the inputs"),
            "inference": self._duration(
                "te_request_inference_duration", "Forward pass, mean over the inputs"
            ),
            "embed": self._duration("te_embed_duration", "From inputs to vectors, per request"),
        }
        self._queue_size = Gauge("te_queue_size", "Inputs waiting", registry=self._registry)
        self._batch_size = Histogram(
            "te_batch_next_size", "Inputs a batch", buckets=SIZE_BUCKETS, registry=self._registry
        )
        self._batch_tokens = Histogram(
            "te_batch_next_tokens",
            "Tokens a batch, without padding",
            buckets=TOKEN_BUCKETS,
            registry=self._registry,
        )
        self._padded_tokens = self._counter(
            "bei_batch_padded_tokens", "Tokens computed, padding included"
        )
        self._truncated = self._counter(
            "bei_truncated_inputs", "Inputs cut to the model's length limit"
        )

    def watch_queue(self, num_waiting: Callable[[], int]) -> None:
        """Read `te_queue_size` from `num_waiting` whenever the page is asked for."""
        self._queue_size.set_function(num_waiting)

    def observe_batch(self, batch: FinishedBatch) -> None:
        """Account for one forward pass."""
        self._batch_size.observe(batch.num_sequences)
        self._batch_tokens.observe(batch.num_tokens)
        self._padded_tokens.inc(batch.num_padded_tokens)

    def embed_started(self, *, num_inputs: int, is_batch: bool) -> None:
        """Account for an embeddings request that has been understood."""
        self._count[is_batch].inc()
        self._embed_count.inc(num_inputs)

    def embed_succeeded(
        self, result: EmbeddingResult, *, is_batch: bool, embed_s: float, total_s: float
    ) -> None:
        """Account for an embeddings request that is about to be answered."""
        self._success[is_batch].inc()
        self._embed_success.inc(len(result.embeddings))
        self._truncated.inc(result.num_truncated_inputs)
        self._durations["request"].observe(total_s)
        self._durations["tokenization"].observe(result.timing.tokenization_s)
        self._durations["queue"].observe(result.timing.queue_s)
        self._durations["inference"].observe(result.timing.inference_s)
        self._durations["embed"].observe(embed_s)

    def request_failed(self, reason: str) -> None:
        """Account for a request that gets an error, or that nobody waits for any more."""
        self._failure.labels(reason).inc()

    def render(self) -> bytes:
        """Return the page in the Prometheus text format."""
        return _TE_COUNTER.sub(rb"\1", generate_latest(self._registry))

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def _duration(self, name: str, documentation: str) -> Histogram:
        return Histogram(
            name, f"{documentation}, seconds", buckets=DURATION_BUCKETS, registry=self._registry
        )


def _method(is_batch: bool) -> str:  # noqa: FBT001 - the only argument
    return "batch" if is_batch else "single"
