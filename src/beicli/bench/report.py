"""From what was measured to the figures of a run, as `run_format.Run` describes them.

Pure: no network, and no clock but for the date.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from beicli.bench.batch_fill import BatchFill
from beicli.bench.histogram import Histogram
from beicli.bench.loads import Load
from beicli.bench.measurement import Round, Second, Tally
from beicli.errors import BenchError

# Above this share of one core the client itself may be what limits the rate.
_BUSY_CPU_FRACTION = 0.9
# A client this late is a limit when its lateness is also a large part of the latency it measures.
_HIGH_LAG_S = 0.02
_HIGH_LAG_SHARE = 0.25
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
# Rounds are short, so what only few requests exceed is chance.
_COMPARED_PERCENTILES = ("p50", "p90", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointMeasurement:
    """One load on one server, in one round or in several."""

    load: Load
    batch_size: int
    rounds: tuple[Round, ...]
    batch_fill: BatchFill | None = None

    @property
    def window_s(self) -> float:
        return sum(each.window_s for each in self.rounds)

    @property
    def texts_per_second_by_round(self) -> tuple[float, ...]:
        return tuple(
            each.tally.num_requests * self.batch_size / each.window_s if each.window_s else 0.0
            for each in self.rounds
        )

    def tally(self) -> Tally:
        """Add up the rounds."""
        total = Tally()
        for each in self.rounds:
            total.merge(each.tally)
        return total


def point_to_json(point: PointMeasurement) -> dict[str, Any]:
    """Return one point; raises `BenchError` when nothing succeeded inside the window."""
    tally, window_s = point.tally(), point.window_s
    if not tally.num_requests:
        raise nothing_succeeded(point, tally)
    cpu_fraction = sum(each.busiest_client_cpu_s for each in point.rounds) / window_s
    lags_s = Histogram()
    for each in point.rounds:
        lags_s.merge(each.loop_lags_s)
    lag_p99_s = lags_s.percentile(99)
    # A sum over some of the requests would pass for the sum over all.
    num_tokens = None if tally.has_unknown_tokens else tally.num_tokens
    num_texts = tally.num_requests * point.batch_size
    return {
        "load": point.load.to_json(),
        "batch_size": point.batch_size,
        "window_s": round(window_s, 3),
        "num_requests": tally.num_requests,
        "num_failed_requests": tally.failures.count,
        "num_texts": num_texts,
        "num_tokens": num_tokens,
        "requests_per_second": round(tally.num_requests / window_s, 3),
        "texts_per_second": round(num_texts / window_s, 3),
        "tokens_per_second": None if num_tokens is None else round(num_tokens / window_s, 3),
        "latency_ms": _latencies(tally.latencies_s),
        "latency_histogram": [
            [round(bound_s * 1e3, 6), count]
            for bound_s, count in tally.latencies_s.coarse_buckets()
        ],
        "by_length": _by_length(tally),
        "timeline": _timeline(tally, window_s, point.batch_size),
        "late_requests": tally.late_requests,
        "unfinished_requests": tally.unfinished_requests,
        "batch_fill": None if point.batch_fill is None else asdict(point.batch_fill),
        "client_cpu_fraction": round(cpu_fraction, 3),
        "client_loop_lag_p99_ms": _milliseconds(lag_p99_s),
        "client_is_limit": _is_client_the_limit(
            cpu_fraction, lag_p99_s, tally.latencies_s.percentile(50)
        ),
        "request_bytes": tally.request_bytes,
        "response_bytes": tally.response_bytes,
        "errors": [
            {"kind": failure.kind, "count": count, "first_message": failure.message}
            for failure, count in tally.failures.most_common()
        ],
    }


def ratio_of_rounds(one: PointMeasurement, other: PointMeasurement) -> float:
    """Median over the rounds of the first's texts per second by the other's.

    Neighbours in time share what disturbs a machine, so their ratio is steadier than either rate.
    """
    totals = [
        point.tally().num_requests * point.batch_size / point.window_s for point in (one, other)
    ]
    return _median_ratio(one.texts_per_second_by_round, other.texts_per_second_by_round, totals)


def latency_ratios(one: PointMeasurement, other: PointMeasurement) -> dict[str, float]:
    """Return the same of latencies, by name of the percentile: below 1 the first is quicker."""
    ratios = {}
    for name in _COMPARED_PERCENTILES:
        percent = _PERCENTILES[name]
        by_round = [
            [each.tally.latencies_s.percentile(percent) for each in point.rounds]
            for point in (one, other)
        ]
        totals = [point.tally().latencies_s.percentile(percent) for point in (one, other)]
        ratios[name] = _median_ratio(by_round[0], by_round[1], totals)
    return ratios


def _median_ratio(
    first: Sequence[float], second: Sequence[float], totals: Sequence[float]
) -> float:
    """Use the rounds in which both did something; the ratio of the totals where there is none."""
    ratios = [one / other for one, other in zip(first, second, strict=False) if one and other]
    return round(statistics.median(ratios or [totals[0] / totals[1]]), 4)


def nothing_succeeded(point: PointMeasurement, tally: Tally) -> BenchError:
    """Return what to tell about a point whose window holds no success."""
    failures = tally.failures.most_common()
    if not failures and not tally.num_outside:
        failures = tally.failures_outside.most_common()
    if failures:
        failure, count = failures[0]
        return BenchError(
            f"no request succeeded; most frequent error: "
            f"{failure.kind}, {count:,} times: {failure.message}",
            hint=failure.hint,
        )
    if any(each.is_interrupted for each in point.rounds):
        return BenchError("interrupted before a request was measured")
    return BenchError(
        f"no request completed within the window of {point.window_s:g} s",
        hint="give a longer `--duration` or a smaller `--batch-size`",
    )


def _latencies(latencies_s: Histogram) -> dict[str, float]:
    percentiles = {
        name: _milliseconds(latencies_s.percentile(percent))
        for name, percent in _PERCENTILES.items()
    }
    return {
        "mean": _milliseconds(latencies_s.mean),
        **percentiles,
        "max": _milliseconds(latencies_s.maximum),
    }


def _by_length(tally: Tally) -> list[dict[str, Any]] | None:
    """Tell of the short requests of a mix and of the long ones; None without a mix."""
    found = []
    for length in ("short", "long"):
        if (part := tally.by_length.get(length)) is not None:
            count, num_tokens = part.latencies_s.count, part.num_tokens
            found.append(
                {
                    "length": length,
                    "num_requests": count,
                    "mean_tokens": None if num_tokens is None else round(num_tokens / count, 1),
                    "latency_ms": _latencies(part.latencies_s),
                }
            )
    return found or None


def _timeline(tally: Tally, window_s: float, batch_size: int) -> list[dict[str, Any]]:
    # Sums of rounds may end a rounding error beyond a whole second.
    num_seconds = max(math.ceil(window_s - 1e-6), max(tally.seconds, default=0) + 1)
    nothing = Second()
    return [
        _second_to_json(number, tally.seconds.get(number, nothing), batch_size)
        for number in range(num_seconds)
    ]


def _second_to_json(number: int, second: Second, batch_size: int) -> dict[str, Any]:
    has_latencies = second.num_requests > 0
    latencies_s = second.latencies_s
    return {
        "second": number,
        "texts": second.num_requests * batch_size,
        "p50_ms": _milliseconds(latencies_s.percentile(50)) if has_latencies else None,
        "p99_ms": _milliseconds(latencies_s.percentile(99)) if has_latencies else None,
        "errors": second.num_errors,
    }


def _is_client_the_limit(cpu_fraction: float, lag_p99_s: float, latency_p50_s: float) -> bool:
    is_late = lag_p99_s > max(_HIGH_LAG_S, _HIGH_LAG_SHARE * latency_p50_s)
    return cpu_fraction > _BUSY_CPU_FRACTION or is_late


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
