"""Pictures of lines, dots and bars as inline SVG, with axes, legends and labels.

Elements are built as a tree, so whatever text goes in comes out escaped. Colours are classes that
the page's style sheet fills in, for light and for dark; no mark tells its series by colour alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from beicli.bench.scales import Scale
from beicli.bench.series import Series

Place = tuple[float, float]
Anchor = Literal["start", "middle", "end"]

LINE_HEIGHT_PX = 15
# Of the fonts that a system may have, the widest need about this for a character.
_CHARACTER_PX = 6.8
_DOT_PX = 3.6


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle with two axes; the scales know its edges."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str

    def place(self, x: float, y: float) -> Place:
        return self.x(x), self.y(y)


class Drawing:
    """One picture that grows by adding marks; `markup` is the result. Empty text adds nothing.

    name: prefix of the identifiers in it, unlike that of any other picture on the page.
    title, description: what somebody is told who cannot see it.
    """

    def __init__(
        self, name: str, title: str, description: str, *, size_px: tuple[int, int]
    ) -> None:
        width, height = size_px
        self._root = ET.Element(
            "svg",
            {
                "viewBox": f"0 0 {width} {height}",
                "role": "img",
                "aria-labelledby": f"{name}-title {name}-description",
            },
        )
        ET.SubElement(self._root, "title", {"id": f"{name}-title"}).text = title
        ET.SubElement(self._root, "desc", {"id": f"{name}-description"}).text = description
        self._width_px = width
        # Left, top, right and bottom of what a label must not cover.
        self._taken: list[tuple[float, float, float, float]] = []

    @property
    def markup(self) -> str:
        return ET.tostring(self._root, encoding="unicode")

    def text(self, place: Place, text: str, *, css: str = "note", anchor: Anchor = "start") -> None:
        attributes = {"x": _px(place[0]), "y": _px(place[1]), "class": css, "text-anchor": anchor}
        if text:
            ET.SubElement(self._root, "text", attributes).text = text

    def rule(self, start: Place, end: Place, *, css: str) -> None:
        (x1, y1), (x2, y2) = start, end
        attributes = {"x1": _px(x1), "y1": _px(y1), "x2": _px(x2), "y2": _px(y2), "class": css}
        ET.SubElement(self._root, "line", attributes)

    def axes(self, panel: Panel, *, has_x_grid: bool = False) -> None:
        """Grid lines, ticks and the names of both axes; the y name stands above its axis."""
        x, y = panel.x, panel.y
        for value, label in y.ticks:
            self.rule((x.start_px, y(value)), (x.end_px, y(value)), css="grid")
            self.text((x.start_px - 6, y(value) + 4), label, css="tick", anchor="end")
        for value, label in x.ticks:
            grid_top = y.end_px if has_x_grid else y.start_px + 4
            self.rule((x(value), y.start_px), (x(value), grid_top), css="grid")
            self.text((x(value), y.start_px + 17), label, css="tick", anchor="middle")
        self.rule((x.start_px, y.start_px), (x.end_px, y.start_px), css="axis")
        self.text((x.start_px, y.end_px - 9), panel.y_label, css="axis-name")
        name_end_px = x.start_px + len(panel.y_label) * _CHARACTER_PX
        self._taken.append((x.start_px, y.end_px - 20, name_end_px, y.end_px - 5))
        middle = (x.start_px + x.end_px) / 2
        self.text((middle, y.start_px + 34), panel.x_label, css="axis-name", anchor="middle")

    def line(self, places: Sequence[Place | None], series: Series) -> None:
        """A line through `places`, interrupted where one is None."""
        pieces: list[list[Place]] = [[]]
        for place in places:
            if place is None:
                pieces.append([])
            else:
                pieces[-1].append(place)
        for piece in pieces:
            if len(piece) > 1:
                points = " ".join(f"{_px(x)},{_px(y)}" for x, y in piece)
                attributes = {"points": points, "class": f"line {series.css}"}
                ET.SubElement(self._root, "polyline", attributes)
            elif piece:
                self.dot(piece[0], series)

    def dot(self, place: Place, series: Series, tooltip: str | None = None) -> None:
        x, y = place
        css = f"dot {series.css}"
        if series.side == 0:
            attributes = {"cx": _px(x), "cy": _px(y), "r": _px(_DOT_PX), "class": css}
            dot = ET.SubElement(self._root, "circle", attributes)
        else:
            dot = self._rectangle((x - _DOT_PX, y - _DOT_PX, x + _DOT_PX, y + _DOT_PX), css)
        if tooltip is not None:
            ET.SubElement(dot, "title").text = tooltip
        self._taken.append((x - _DOT_PX, y - _DOT_PX, x + _DOT_PX, y + _DOT_PX))

    def cross(self, place: Place, tooltip: str) -> None:
        """Something went wrong here."""
        x, y = place
        path = f"M{_px(x - 4)},{_px(y - 4)}l8,8m0,-8l-8,8"
        cross = ET.SubElement(self._root, "path", {"d": path, "class": "cross"})
        ET.SubElement(cross, "title").text = tooltip

    def bar(self, corners: tuple[Place, Place], series: Series) -> None:
        (left, top), (right, bottom) = corners
        self._rectangle((left, top, right, bottom), f"bar {series.css}")

    def label(self, place: Place, text: str) -> None:
        """Write `text` beside `place` where it covers no dot and no other label, or not at all."""
        x, y = place
        half, gap = len(text) * _CHARACTER_PX / 2, _DOT_PX + 4
        middles = (
            (x, y - gap - 6),
            (x + gap + half, y),
            (x - gap - half, y),
            (x, y + gap + 6),
            (x + gap + half, y - 10),
            (x - gap - half, y - 10),
            (x + gap + half, y + 10),
        )
        for middle_x, middle_y in middles:
            box = (middle_x - half, middle_y - 7, middle_x + half, middle_y + 7)
            if self._is_free(box):
                self._taken.append(box)
                self.text((middle_x, middle_y + 4), text, css="note", anchor="middle")
                return

    def legend(self, left_px: float, series: Sequence[Series]) -> None:
        """A sample of each line with its name, in one row at the top."""
        y = 12.0
        for one in series:
            self.line([(left_px, y), (left_px + 28, y)], one)
            self.dot((left_px + 14, y), one)
            self.text((left_px + 34, y + 4), one.name)
            left_px += 34 + len(one.name) * _CHARACTER_PX + 18

    def _is_free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = box
        if left < 0 or right > self._width_px:
            return False
        return not any(
            left < other_right and other_left < right and top < other_bottom and other_top < bottom
            for other_left, other_top, other_right, other_bottom in self._taken
        )

    def _rectangle(self, edges: tuple[float, float, float, float], css: str) -> ET.Element:
        left, top, right, bottom = edges
        attributes = {
            "x": _px(left),
            "y": _px(top),
            "width": _px(right - left),
            "height": _px(bottom - top),
            "class": css,
        }
        return ET.SubElement(self._root, "rect", attributes)


def _px(value: float) -> str:
    """A tenth of a pixel is as fine as anybody sees, and keeps the page small."""
    return f"{value:.1f}".removesuffix(".0")
