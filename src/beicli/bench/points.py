"""The points of a run: what each is called, and which two belong together.

Runs are the mappings that `run_format.Run` describes.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PointMapping = Mapping[str, Any]
# The kind of load, its size, and how many points with the same load came before.
LoadKey = tuple[str, float, int]


@dataclass(frozen=True, slots=True)
class PointPair:
    """One load on the measured server, and on the other one when there is one.

    ratio: texts per second of the first by those of the second.
    """

    label: str
    first: PointMapping
    second: PointMapping | None
    ratio: float | None

    @property
    def sides(self) -> tuple[PointMapping, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)


def pair_points(run: Mapping[str, Any]) -> tuple[PointPair, ...]:
    """The points of `run` in their order; both servers take the loads in the same order."""
    against = run.get("against") or {"points": [], "texts_per_second_ratios": []}
    pairs = itertools.zip_longest(
        run["points"],
        against["points"][: len(run["points"])],
        against["texts_per_second_ratios"][: len(run["points"])],
    )
    return tuple(
        PointPair(load_label(first), first, second, ratio) for first, second, ratio in pairs
    )


def points_by_load(points: Sequence[PointMapping]) -> dict[LoadKey, PointMapping]:
    """The same points; of those with equal loads the first has the key with 0, and so on."""
    seen: Counter[tuple[str, float]] = Counter()
    keyed = {}
    for point in points:
        load = (point["load"]["kind"], load_size(point))
        keyed[*load, seen[load]] = point
        seen[load] += 1
    return keyed


def load_label(point: PointMapping) -> str:
    """Such as `concurrency 32` or `rate 150/s`."""
    if point["load"]["kind"] == "closed":
        return f"concurrency {short_load_label(point)}"
    return f"rate {short_load_label(point)}/s"


def short_load_label(point: PointMapping) -> str:
    """Only the number, for places where the axis says what it counts."""
    return f"{load_size(point):,.6g}"


def load_size(point: PointMapping) -> float:
    """Clients, or requests per second: more of it is more load."""
    load = point["load"]
    return float(load["concurrency"] if load["kind"] == "closed" else load["rate_per_second"])
