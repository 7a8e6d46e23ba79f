"""Metrics that belong together: the times of requests, what a family of routes does, batches."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from beicli.pipeline.results import Usage
from beicli.scheduler.scheduler import FinishedBatch

DURATION_BUCKETS = [1e-5 * 1.5**n for n in range(1, 36)]
SIZE_BUCKETS = [2**n for n in range(13)]
TOKEN_BUCKETS = [2**n for n in range(21)]
SHARE_BUCKETS = [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]
# Around 1, where an estimate is right.
RATIO_BUCKETS = [0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0]


class Durations:
    """How long requests took, and the parts of it."""

    def __init__(self, prefix: str, whole: str, registry: CollectorRegistry) -> None:
        def histogram(name: str, documentation: str) -> Histogram:
            return Histogram(
                f"{prefix}{name}_duration",
                f"{documentation}, seconds",
                buckets=DURATION_BUCKETS,
                registry=registry,
            )

        self._whole = histogram("", whole)
        self._tokenization = histogram("_tokenization", "Tokenising a request's inputs")
        self._queue = histogram("_queue", "Waiting, mean over the inputs")
        self._inference = histogram("_inference", "Forward pass, mean over the inputs")

    def observe(self, whole_s: float, usage: Usage | None) -> None:
        """Account for one request; usage: None where no model was asked."""
        self._whole.observe(whole_s)
        if usage is not None:
            self._tokenization.observe(usage.timing.tokenization_s)
            self._queue.observe(usage.timing.queue_s)
            self._inference.observe(usage.timing.inference_s)


class FamilyMetrics:
    """What one family of routes counts: its inputs, and the time of its requests."""

    def __init__(self, family: str, registry: CollectorRegistry) -> None:
        self.count = Counter(f"te_{family}_count", f"Inputs to {family}", registry=registry)
        self.success = Counter(
            f"te_{family}_success", f"Inputs answered by {family} routes", registry=registry
        )
        self.durations = Durations(
            f"te_{family}", f"{family} requests, complete body to result", registry
        )


class BatchMetrics:
    """What forward passes take, and what is in them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, documentation: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, documentation, buckets=buckets, registry=registry)

        self._size = histogram("te_batch_next_size", "Inputs a batch", SIZE_BUCKETS)
        self._tokens = histogram(
            "te_batch_next_tokens", "Tokens a batch, without padding", TOKEN_BUCKETS
        )
        self._padded_tokens = Counter(
            "bei_batch_padded_tokens", "Tokens computed, padding included", registry=registry
        )
        self._duration = histogram(
            "bei_batch_duration", "Forward pass of a batch, seconds", DURATION_BUCKETS
        )
        self._padding_share = histogram(
            "bei_batch_padding_share", "Padding among the tokens of a batch", SHARE_BUCKETS
        )
        self._estimate_ratio = histogram(
            "bei_batch_estimate_ratio",
            "Time a batch was believed to take, divided by what it took",
            RATIO_BUCKETS,
        )

    def observe(self, batch: FinishedBatch) -> None:
        """Account for one forward pass."""
        self._size.observe(batch.num_sequences)
        self._tokens.observe(batch.num_tokens)
        self._padded_tokens.inc(batch.num_padded_tokens)
        self._duration.observe(batch.inference_s)
        self._padding_share.observe(1 - batch.num_tokens / batch.num_padded_tokens)
        if batch.estimated_s is not None and batch.inference_s > 0:
            self._estimate_ratio.observe(batch.estimated_s / batch.inference_s)
