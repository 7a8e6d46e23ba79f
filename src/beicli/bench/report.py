"""From the requests of a benchmark run to its figures.

Pure: no clock, no network. A request counts when it completed inside the measured window, wherever
it began: that leaves the rate undistorted at both ends. Percentiles follow the nearest-rank rule:
the p-th is the smallest measured value that at least p percent of the values do not exceed, so
each one is a latency that really occurred.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from beicli.bench.measurement import Failure, Measurement, Sample
from beicli.bench.settings import BenchSettings
from beicli.bench.workload import Workload
from beicli.errors import BenchError

SCHEMA_VERSION = 1
# Above this share of one core the client itself may be what limits the rate.
BUSY_CLIENT_CPU_FRACTION = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """The figures of one run; rates are per second of the window."""

    settings: BenchSettings
    dataset: str
    dataset_num_texts: int
    dataset_mean_characters: float
    served_model: str | None
    is_interrupted: bool
    window_s: float
    num_requests: int
    num_texts: int
    num_tokens: int | None
    failures: tuple[tuple[Failure, int], ...]
    latencies_ms: tuple[float, ...]
    request_bytes: int
    response_bytes: int
    client_cpu_fraction: float

    @property
    def requests_per_second(self) -> float:
        return self.num_requests / self.window_s

    @property
    def texts_per_second(self) -> float:
        return self.num_texts / self.window_s

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.num_tokens is None else self.num_tokens / self.window_s

    @property
    def num_failed_requests(self) -> int:
        return sum(count for _, count in self.failures)

    def latency_ms(self, percent: int) -> float:
        return percentile(self.latencies_ms, percent)

    def to_json(self) -> dict[str, Any]:
        """The object that `bei bench --json` prints; its keys are a promise.

        A key keeps its meaning and unit as long as `schema_version` stays the same.
        """
        settings = self.settings
        return {
            "schema_version": SCHEMA_VERSION,
            "url": settings.url,
            "model": settings.model,
            "served_model": self.served_model,
            "encoding_format": str(settings.encoding_format),
            "dimensions": settings.dimensions,
            "concurrency": settings.concurrency,
            "batch_size": settings.batch_size,
            "duration_s": settings.duration_s,
            "warmup_s": settings.warmup_s,
            "timeout_s": settings.timeout_s,
            "seed": settings.seed,
            "dataset": self.dataset,
            "dataset_num_texts": self.dataset_num_texts,
            "dataset_mean_characters": round(self.dataset_mean_characters, 1),
            "interrupted": self.is_interrupted,
            **self._results_to_json(),
        }

    def _results_to_json(self) -> dict[str, Any]:
        tokens_per_second = self.tokens_per_second
        return {
            "window_s": round(self.window_s, 3),
            "num_requests": self.num_requests,
            "num_failed_requests": self.num_failed_requests,
            "num_texts": self.num_texts,
            "num_tokens": self.num_tokens,
            "requests_per_second": round(self.requests_per_second, 2),
            "texts_per_second": round(self.texts_per_second, 2),
            "tokens_per_second": None if tokens_per_second is None else round(tokens_per_second, 2),
            "latency_p50_ms": round(self.latency_ms(50), 3),
            "latency_p90_ms": round(self.latency_ms(90), 3),
            "latency_p99_ms": round(self.latency_ms(99), 3),
            "latency_max_ms": round(self.latency_ms(100), 3),
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "client_cpu_fraction": round(self.client_cpu_fraction, 3),
            "errors": [
                {"kind": failure.kind, "count": count, "first_message": failure.message}
                for failure, count in self.failures
            ],
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """Label and value of each line of the table for people."""
        settings = self.settings
        yield "server", settings.url
        yield "model", self.served_model or settings.model or "not named"
        yield "load", f"{settings.concurrency} clients, batch size {settings.batch_size}"
        mean = f"mean {self.dataset_mean_characters:.0f} characters"
        yield "dataset", f"{self.dataset}, {self.dataset_num_texts:,} texts, {mean}"
        yield "window", f"{self.window_s:.2f} s" + (" (interrupted)" if self.is_interrupted else "")
        yield "texts", f"{self.texts_per_second:,.1f} /s"
        tokens = self.tokens_per_second
        yield "tokens", "not told by the server" if tokens is None else f"{tokens:,.0f} /s"
        yield "requests", f"{self.requests_per_second:,.1f} /s ({self.num_requests:,} in all)"
        for label, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)):
            yield f"latency {label}", f"{self.latency_ms(percent):,.1f} ms"
        yield "sent", f"{self.request_bytes / 1e6:,.2f} MB"
        yield "received", f"{self.response_bytes / 1e6:,.2f} MB, {settings.encoding_format}"
        is_busy = self.client_cpu_fraction > BUSY_CLIENT_CPU_FRACTION
        note = ": the client may be the limit, not the server" if is_busy else ""
        yield "client", f"{self.client_cpu_fraction:.0%} of a core{note}"
        yield "failed", f"{self.num_failed_requests:,} requests"
        for failure, count in self.failures:
            yield f"  {failure.kind}", f"{count:,} x {failure.message}"


def summarize(
    measurement: Measurement, *, settings: BenchSettings, workload: Workload
) -> BenchReport:
    """Count what completed inside the window; raises `BenchError` when nothing succeeded there."""
    start_s, end_s = measurement.window_start_s, measurement.window_end_s
    samples = [s for s in measurement.samples if start_s <= s.completed_at_s <= end_s]
    succeeded = [sample for sample in samples if sample.failure is None]
    if not succeeded:
        raise _nothing_succeeded(measurement, samples)
    token_counts = [sample.num_tokens for sample in succeeded if sample.num_tokens is not None]
    window_s = end_s - start_s
    return BenchReport(
        settings=settings,
        dataset=workload.dataset_name,
        dataset_num_texts=workload.num_texts,
        dataset_mean_characters=workload.mean_characters,
        served_model=measurement.served_model,
        is_interrupted=measurement.is_interrupted,
        window_s=window_s,
        num_requests=len(succeeded),
        num_texts=len(succeeded) * settings.batch_size,
        # A sum over some of the requests would pass for the sum over all.
        num_tokens=sum(token_counts) if len(token_counts) == len(succeeded) else None,
        failures=count_failures(samples),
        latencies_ms=tuple(sorted(sample.latency_s * 1e3 for sample in succeeded)),
        request_bytes=sum(sample.request_bytes for sample in succeeded),
        response_bytes=sum(sample.response_bytes for sample in succeeded),
        client_cpu_fraction=measurement.client_cpu_s / window_s,
    )


def percentile(sorted_values: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile of ascending, non-empty `sorted_values`; percent: 1 to 100."""
    # In whole numbers, since 0.07 x 100 is more than 7 in floating point.
    rank = -(-percent * len(sorted_values) // 100)
    return sorted_values[rank - 1]


def count_failures(samples: Sequence[Sample]) -> tuple[tuple[Failure, int], ...]:
    """The first failure of each kind and how many there were, most frequent kind first."""
    first_of_kind: dict[str, Failure] = {}
    counts: Counter[str] = Counter()
    for sample in samples:
        if sample.failure is not None:
            first_of_kind.setdefault(sample.failure.kind, sample.failure)
            counts[sample.failure.kind] += 1
    return tuple((first_of_kind[kind], count) for kind, count in counts.most_common())


def _nothing_succeeded(measurement: Measurement, samples: Sequence[Sample]) -> BenchError:
    """What to tell when `samples`, those that count, hold no success."""
    failures = count_failures(samples)
    if not failures and all(sample.failure for sample in measurement.samples):
        failures = count_failures(measurement.samples)
    if failures:
        failure, count = failures[0]
        return BenchError(
            f"no request succeeded; most frequent error: "
            f"{failure.kind}, {count:,} times: {failure.message}",
            hint=failure.hint,
        )
    if measurement.is_interrupted:
        return BenchError("interrupted before a request was measured")
    window_s = measurement.window_end_s - measurement.window_start_s
    return BenchError(
        f"no request completed within the window of {window_s:g} s",
        hint="give a longer `--duration` or a smaller `--batch-size`",
    )
