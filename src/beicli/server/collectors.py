"""Figures that others keep, and that are read whenever the page of metrics is asked for."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from beicli.pipeline.result_cache import CacheStatistics
from beicli.server.canary import CanaryFigures


class CacheCollector(Collector):
    """What becomes of the cache of results."""

    def __init__(self, statistics: Callable[[], CacheStatistics | None]) -> None:
        self._statistics = statistics
        self._before = CacheStatistics(0, 0, 0, 0, 0)

    def go_on_with(self, statistics: Callable[[], CacheStatistics | None]) -> None:
        """Read these figures instead; what was counted so far stays."""
        self._before = self._counted() or self._before
        self._statistics = statistics

    def _counted(self) -> CacheStatistics | None:
        now, before = self._statistics(), self._before
        if now is None:
            return None
        return replace(
            now,
            num_hits=before.num_hits + now.num_hits,
            num_misses=before.num_misses + now.num_misses,
            num_evictions=before.num_evictions + now.num_evictions,
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, none while there is no cache."""
        now = self._counted()
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
        self._before_s = 0.0

    def go_on_with(self, busy_s: Callable[[], float]) -> None:
        """Count on with these slots; what those before compute from now on is not counted."""
        self._before_s += self._busy_s()
        self._busy_s = busy_s

    def collect(self) -> Iterator[Metric]:
        """Yield the one counter."""
        yield CounterMetricFamily(
            "bei_slot_busy_seconds",
            "Computing time of all slots, running batches included",
            value=self._before_s + self._busy_s(),
        )


class CanaryCollector(Collector):
    """How far from the reference the last canary was; NaN before the first."""

    def __init__(self, figures: Callable[[], CanaryFigures] | None) -> None:
        self._figures = figures

    def go_on_with(self, figures: Callable[[], CanaryFigures] | None) -> None:
        """Tell of this canary instead; None if there is none any more."""
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of the measure that the engine's task has; none without a canary."""
        if self._figures is None:
            return
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
