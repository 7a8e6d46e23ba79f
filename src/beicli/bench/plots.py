"""Pictures of a run's loads side by side: latency by throughput, and how full batches were.

Each function returns inline SVG, or None where there is nothing to draw; no text of a server is in
it. With two servers, `A` is the measured one and `B` the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

from beicli.bench.drawing import LINE_HEIGHT_PX, Drawing, Panel
from beicli.bench.points import PointMapping, PointPair, load_label, load_size, short_load_label
from beicli.bench.scales import Scale, latency_scale, linear_scale, short_number
from beicli.bench.series import Series, latency_label, latency_series, server_names

_LEFT_PX = 72
_MAX_BAR_LABELS = 16
# A full bar still has its value above it, and that stays below the name of the axis.
_HEADROOM = 1.1


def draw_sweep(pairs: Sequence[PointPair]) -> str:
    """Latency by throughput: one curve a server and percentile, one dot a load."""
    # By size, whatever the order of measuring, so that the curve does not run back and forth.
    sides = [sorted(side, key=load_size) for side in _sides(pairs)]
    names = server_names(len(sides))
    points = [point for side in sides for point in side]
    tails = [point["latency_ms"]["p99"] for point in points]
    x = linear_scale([point["texts_per_second"] for point in points], _LEFT_PX, 700, max_ticks=7)
    y = latency_scale(
        [*tails, *(point["latency_ms"]["p50"] for point in points)], 330, 52, max_ticks=8
    )
    panel = Panel(x=x, y=y, x_label="texts per second", y_label=latency_label(y))
    drawing = Drawing(
        "sweep",
        "Latency by throughput",
        f"{len(pairs)} loads from {load_label(sides[0][0])} to {load_label(sides[0][-1])}. "
        + " ".join(_sweep_sentence(side, names[i]) for i, side in enumerate(sides)),
        size_px=(720, 375),
    )
    drawing.axes(panel)
    series = latency_series(len(sides))
    drawing.legend(_LEFT_PX, series)
    for one in series:
        key = "p50" if one.role == "main" else "p99"
        side = sides[one.side]
        places = [panel.place(p["texts_per_second"], p["latency_ms"][key]) for p in side]
        drawing.line(places, one)
        for place, point in zip(places, side, strict=True):
            drawing.dot(place, one, _point_tooltip(one, point, key))
    # After all dots, so that no label covers one; the tail first, where dots lie further apart.
    for key in ("p99", "p50"):
        for point in points:
            place = panel.place(point["texts_per_second"], point["latency_ms"][key])
            drawing.label(place, short_load_label(point))
    return drawing.markup


def draw_batch_fill(pairs: Sequence[PointPair]) -> str | None:
    """Sequences in a batch, and the share of its tokens that are not padding."""
    fills = [point.get("batch_fill") for pair in pairs for point in pair.sides]
    known = [fill for fill in fills if fill is not None]
    if not known:
        return None
    sides = _sides(pairs)
    top_px = 52 if len(sides) > 1 else 30
    bottom_px = top_px + 163
    sequences = [fill["sequences_per_batch"] for fill in known]
    percents = tuple((float(p), f"{p}%") for p in (0, 25, 50, 75, 100))
    drawing = Drawing(
        "fill",
        "Batch fill",
        f"{short_number(min(sequences))} to {short_number(max(sequences))} sequences per batch; "
        f"of the tokens {min(f['real_token_fraction'] for f in known):.0%} to "
        f"{max(f['real_token_fraction'] for f in known):.0%} are of texts, the rest is padding.",
        size_px=(720, bottom_px + 45),
    )
    _bar_legend(drawing, sides)
    label = _load_axis_label(pairs)
    left = Panel(
        x=_category_scale(pairs, _LEFT_PX, 350),
        y=linear_scale([_HEADROOM * s for s in sequences], bottom_px, top_px, max_ticks=4),
        x_label=label,
        y_label="sequences per batch",
    )
    right = Panel(
        x=_category_scale(pairs, 430, 712),
        y=Scale(0, 100 * _HEADROOM, bottom_px, top_px, percents),
        x_label=label,
        y_label="tokens that are not padding",
    )
    for panel, value in ((left, _sequences_per_batch), (right, _real_token_percent)):
        drawing.axes(panel)
        _draw_bars(drawing, panel, pairs, value)
    return drawing.markup


def _bar_legend(drawing: Drawing, sides: Sequence[Sequence[PointMapping]]) -> None:
    if len(sides) == 1:
        return
    for side, left_px in ((0, _LEFT_PX), (1, _LEFT_PX + 110)):
        is_told = any(point.get("batch_fill") is not None for point in sides[side])
        drawing.bar(((left_px, 6), (left_px + 18, 18)), Series("", side, "main"))
        drawing.text((left_px + 24, 16), "AB"[side] + ("" if is_told else ": not told"))


def _draw_bars(
    drawing: Drawing,
    panel: Panel,
    pairs: Sequence[PointPair],
    value_of: Callable[[PointMapping], float],
) -> None:
    num_sides = len(_sides(pairs))
    slot_px = panel.x(1) - panel.x(0)
    width_px = min(slot_px * 0.7 / num_sides, 42)
    has_labels = len(pairs) * num_sides <= _MAX_BAR_LABELS and width_px > LINE_HEIGHT_PX
    for position, pair in enumerate(pairs):
        left_px = panel.x(position + 0.5) - width_px * num_sides / 2
        for side, point in enumerate(pair.sides):
            if point.get("batch_fill") is None:
                continue
            value = value_of(point["batch_fill"])
            left, top = left_px + side * width_px, panel.y(value)
            # A gap, so that two bars of one height remain two.
            corners = ((left + 1, top), (left + width_px - 1, panel.y.start_px))
            drawing.bar(corners, Series("", side, "main"))
            if has_labels:
                middle = (left + width_px / 2, top - 4)
                drawing.text(middle, f"{value:,.1f}", css="small", anchor="middle")


def _sequences_per_batch(fill: Any) -> float:
    return float(fill["sequences_per_batch"])


def _real_token_percent(fill: Any) -> float:
    return float(fill["real_token_fraction"] * 100)


def _category_scale(pairs: Sequence[PointPair], start_px: float, end_px: float) -> Scale:
    """One slot a load, with its size in the middle; of many loads not every size is written."""
    labels = [short_load_label(pair.first) for pair in pairs]
    room = (end_px - start_px) / (8 * max(map(len, labels)) + 8)
    every = max(-(-len(labels) // int(room)), 1)
    ticks = tuple((i + 0.5, labels[i]) for i in range(0, len(labels), every))
    return Scale(0, len(labels), start_px, end_px, ticks)


def _sides(pairs: Sequence[PointPair]) -> list[list[PointMapping]]:
    """Each server's points; one list when only one was measured."""
    first = [pair.first for pair in pairs]
    second = [pair.second for pair in pairs if pair.second is not None]
    return [first, second] if second else [first]


def _load_axis_label(pairs: Sequence[PointPair]) -> str:
    is_closed = pairs[0].first["load"]["kind"] == "closed"
    return "concurrency" if is_closed else "requests per second"


def _point_tooltip(series: Series, point: PointMapping, key: str) -> str:
    rate = f"{short_number(point['texts_per_second'])} texts/s"
    return (
        f"{series.name}, {load_label(point)}: {rate}, {short_number(point['latency_ms'][key])} ms"
    )


def _sweep_sentence(points: Sequence[PointMapping], name: str) -> str:
    first, last = points[0], points[-1]
    return (
        f"{name}throughput goes from {short_number(first['texts_per_second'])} to "
        f"{short_number(last['texts_per_second'])} texts per second, p99 latency from "
        f"{short_number(first['latency_ms']['p99'])} to "
        f"{short_number(last['latency_ms']['p99'])} ms."
    )
