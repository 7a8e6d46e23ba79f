"""Figures that others keep, and that are read whenever the page of metrics is asked for."""

import math
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from beicli.pipeline.result_cache import CacheStatistics
from beicli.server.canary import CanaryFigures


class CacheCollector(Collector):
    """What becomes of the cache of results."""

    def __init__(self, statistics: Callable[[], CacheStatistics | None]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, none while there is no cache."""
        now = self._statistics()
        if now is None:
            return
        for name, documentation, value in (
            ("hits", "Inputs answered from the cache", now.num_hits),
            ("misses", "Inputs that were not in the cache", now.num_misses),
            ("evictions", "Results that made room for others", now.num_evictions),
        ):
            yield CounterMetricFamily(f"bei_result_cache_{name}", documentation, value=value)
        yield GaugeMetricFamily(
            "bei_result_cache_bytes", "Memory that results take", value=now.num_bytes
        )


class SlotCollector(Collector):
    """How long the slots have computed, running batches included."""

    def __init__(self, busy_s: Callable[[], float]) -> None:
        self._busy_s = busy_s

    def collect(self) -> Iterator[Metric]:
        """Yield the one counter."""
        yield CounterMetricFamily(
            "bei_slot_busy_seconds",
            "Computing time of all slots, running batches included",
            value=self._busy_s(),
        )


class CanaryCollector(Collector):
    """How far from the reference the last canary was; NaN before the first."""

    def __init__(self, figures: Callable[[], CanaryFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, those of the measure that the engine's task has."""
        now = self._figures()
        measure = "cosine_min" if now.is_cosine else "score_error_max"
        what = (
            "Lowest cosine of a golden input to its reference"
            if now.is_cosine
            else "The furthest a score of a golden input is off"
        )
        last = now.last
        for name, documentation, value in (
            (measure, what, math.nan if last is None else last.value),
            (f"{measure}_allowed", f"{what}, at the limit", now.allowed),
            (
                "passed",
                "Whether the last canary passed: 1 or 0",
                math.nan if last is None else float(last.problem is None),
            ),
            (
                "timestamp_seconds",
                "When the last canary ended, since 1970",
                math.nan if last is None else last.finished_at,
            ),
        ):
            yield GaugeMetricFamily(f"bei_canary_{name}", documentation, value=value)
