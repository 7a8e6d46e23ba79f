"""Pictures of latency for a run's page: its distribution, and how it went over time.

Each function returns inline SVG, or None where there is nothing to draw; no text of a server is in
it. With two servers, `A` is the measured one and `B` the other.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import log10
from typing import Any

from beicli.bench.drawing import Drawing, Panel
from beicli.bench.points import PointMapping, PointPair, load_label
from beicli.bench.scales import (
    Scale,
    latency_scale,
    linear_scale,
    log_scale,
    short_number,
    tick_label,
)
from beicli.bench.series import Series, latency_label, latency_series, server_names

_LEFT_PX = 72
_RIGHT_PX = 700
# Lines with more points than this show no dots: they would hide the line.
_MAX_DOTS = 40
_PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
_LATENCY_KEYS = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p999"}


def draw_distribution(pair: PointPair) -> str | None:
    """Which share of requests took at most how long; both axes give the slow ones room.

    The share's axis counts nines, as 90, 99 and 99.9 percent are equally far apart.
    """
    curves = [_cumulative(point["latency_histogram"]) for point in pair.sides]
    if not all(curves):
        return None
    names = server_names(len(curves))
    x = _scale_with_margins(curves)
    panel = Panel(
        x=x,
        y=_nines_scale(max(map(_most_nines, pair.sides))),
        x_label="latency, ms, log scale",
        y_label="share of requests that took no longer",
    )
    drawing = Drawing(
        "distribution",
        "Distribution of latency",
        " ".join(
            f"{name}{_latency_words(point)}." for name, point in zip(names, pair.sides, strict=True)
        ),
        size_px=(720, 375),
    )
    drawing.axes(panel, has_x_grid=True)
    series = [
        Series(f"{name}{load_label(point)}", side, "main")
        for side, (name, point) in enumerate(zip(names, pair.sides, strict=True))
    ]
    drawing.legend(_LEFT_PX, series)
    for one, curve in zip(series, curves, strict=True):
        drawing.line([panel.place(ms, _nines(share)) for ms, share in _steps(curve, x.low)], one)
    _mark_percentiles(drawing, panel, series, pair.sides)
    return drawing.markup


def draw_timeline(pair: PointPair, name: str) -> str | None:
    """Latency and throughput in each second of one load's window."""
    timelines = [point["timeline"] for point in pair.sides]
    seconds = [second for timeline in timelines for second in timeline]
    latencies = [s[key] for s in seconds for key in ("p50_ms", "p99_ms") if s.get(key) is not None]
    if not latencies:
        return None
    num_seconds = max(second["second"] for second in seconds) + 1
    x = linear_scale([num_seconds], _LEFT_PX, 470, max_ticks=8, min_step=1)
    x = Scale(
        0, num_seconds, x.start_px, x.end_px, tuple(t for t in x.ticks if t[0] <= num_seconds)
    )
    upper_y = latency_scale(latencies, 175, 52, max_ticks=4)
    upper = Panel(x=x, y=upper_y, x_label="", y_label=latency_label(upper_y))
    lower_y = linear_scale([second["texts"] for second in seconds], 285, 230, max_ticks=2)
    has_errors = any(second["errors"] for second in seconds)
    lower_label = "texts/s (x: errors in that second)" if has_errors else "texts/s"
    lower = Panel(x=x, y=lower_y, x_label="second of the window", y_label=lower_label)
    drawing = Drawing(
        name,
        f"Latency and throughput over time, {pair.label}",
        _timeline_sentence(latencies, seconds, num_seconds),
        size_px=(490, 325),
    )
    drawing.axes(upper)
    drawing.axes(lower)
    series = latency_series(len(timelines))
    drawing.legend(_LEFT_PX, series)
    for one in series:
        key = "p50_ms" if one.role == "main" else "p99_ms"
        _draw_seconds(drawing, upper, one, timelines[one.side], _value_of(key))
        if one.role == "main":
            _draw_seconds(drawing, lower, one, timelines[one.side], _value_of("texts"))
    _mark_errors(drawing, lower, timelines)
    return drawing.markup


def _draw_seconds(
    drawing: Drawing,
    panel: Panel,
    series: Series,
    timeline: Sequence[Any],
    value_of: Callable[[Any], float | None],
) -> None:
    # In the middle of its second, so that one second alone does not lie on the axis.
    found = [(second["second"] + 0.5, value_of(second)) for second in timeline]
    places = [None if value is None else panel.place(at, value) for at, value in found]
    drawing.line(places, series)
    if len(places) <= _MAX_DOTS:
        for place, (at, value) in zip(places, found, strict=True):
            if place is not None and value is not None:
                drawing.dot(
                    place, series, f"{series.name}, second {int(at)}: {short_number(value)}"
                )


def _value_of(key: str) -> Callable[[Any], float | None]:
    return lambda second: second.get(key)


def _mark_errors(drawing: Drawing, panel: Panel, timelines: Sequence[Sequence[Any]]) -> None:
    for side, timeline in enumerate(timelines):
        for second in timeline:
            if second["errors"]:
                place = (panel.x(second["second"] + 0.5), panel.y.end_px + 11 * side)
                drawing.cross(
                    place, f"{server_names(len(timelines))[side]}{second['errors']:,} errors"
                )


def _mark_percentiles(
    drawing: Drawing, panel: Panel, series: Sequence[Series], points: Sequence[PointMapping]
) -> None:
    """A dot and a value at each percentile that the number of requests can tell."""
    for one, point in zip(series, points, strict=True):
        # A curve rises to the right, so there is room above it on the left and below on the right.
        is_faster = len(points) > 1 and point is min(points, key=lambda p: p["latency_ms"]["p50"])
        for name, share in _PERCENTILES:
            if _nines(share) <= _most_nines(point):
                value = point["latency_ms"][_LATENCY_KEYS[name]]
                x, y = panel.place(value, _nines(share))
                drawing.dot((x, y), one, f"{one.name}, {name}: {short_number(value)} ms")
                text = f"{name} {short_number(value)} ms"
                if is_faster:
                    drawing.text((x - 8, y - 7), text, anchor="end")
                else:
                    drawing.text((x + 8, y + 16), text, anchor="start")


def _scale_with_margins(curves: Sequence[Sequence[tuple[float, float]]]) -> Scale:
    """Wider than the curves, by what is written beside them: on the left too when there are two."""
    bounds = [ms for curve in curves for ms, _ in curve if ms > 0]
    low, high = min(bounds, default=1.0), max(bounds, default=1.0)
    # Of the axis's length, so that labels have the same room whatever it spans.
    margin = (high / low) ** 0.25
    return log_scale(
        (low / margin if len(curves) > 1 else low, high * margin),
        _LEFT_PX,
        _RIGHT_PX,
        max_ticks=9,
    )


def _most_nines(point: PointMapping) -> float:
    """How far up the share's axis so many requests can tell: 1,000 of them to 99.9 percent."""
    return log10(sum(count for _, count in point["latency_histogram"]) + 1)


def _nines_scale(high: float) -> Scale:
    high = max(high, 1.0)
    shares = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
    ticks = tuple(
        (_nines(share), f"{tick_label(share * 100)}%") for share in shares if _nines(share) <= high
    )
    return Scale(0, high, 330, 52, ticks)


def _nines(share: float) -> float:
    """0 for nothing, 1 for 90 percent, 2 for 99: how many nines a share has."""
    return 12.0 if share >= 1 else -log10(1 - share)


def _cumulative(histogram: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Upper bounds in ms that something fell below, with the share of all up to there."""
    buckets = [(float(upper), count) for upper, count in histogram if count > 0]
    sums = list(accumulate(count for _, count in buckets))
    return [(upper, total / sums[-1]) for (upper, _), total in zip(buckets, sums, strict=True)]


def _steps(curve: Sequence[tuple[float, float]], start: float) -> Iterator[tuple[float, float]]:
    """Level until the next bound, then up: what lies between two bounds is not known."""
    share = 0.0
    yield start, share
    for upper, next_share in curve:
        yield upper, share
        yield upper, next_share
        share = next_share


def _latency_words(point: PointMapping) -> str:
    return ", ".join(
        f"{name} {short_number(point['latency_ms'][_LATENCY_KEYS[name]])} ms"
        for name, _ in _PERCENTILES
    )


def _timeline_sentence(latencies: Sequence[float], seconds: Sequence[Any], num_seconds: int) -> str:
    texts = [second["texts"] for second in seconds]
    least, most = short_number(min(latencies)), short_number(max(latencies))
    return (
        f"{num_seconds} seconds; p50 and p99 latency lie between {least} and {most} ms, "
        f"throughput between {min(texts):,} and {max(texts):,} texts/s."
    )
