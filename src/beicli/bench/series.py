"""The lines that every picture of a run has: one a server and percentile, and their names."""

from dataclasses import dataclass
from typing import Literal

from beicli.bench.scales import Scale

Role = Literal["main", "tail"]
_PERCENTILE_ROLES: tuple[tuple[str, Role], ...] = (("p50", "main"), ("p99", "tail"))


@dataclass(frozen=True, slots=True)
class Series:
    """How one line of figures looks.

    side: 0 is the measured server, drawn with discs; 1 the other one, with squares.
    role: `main` has a heavy line and filled dots, `tail` a light one and hollow dots.
    """

    name: str
    side: int
    role: Role

    @property
    def css(self) -> str:
        return f"side{self.side} {self.role}"


def latency_series(num_sides: int) -> list[Series]:
    """Median and tail of each server, in the order of the legend."""
    return [
        Series(f"{name}{percentile}", side, role)
        for side, name in enumerate(server_names(num_sides))
        for percentile, role in _PERCENTILE_ROLES
    ]


def server_names(num_sides: int) -> tuple[str, ...]:
    """What goes before a series' name: nothing when there is one server."""
    return ("A ", "B ") if num_sides > 1 else ("",)


def latency_label(scale: Scale) -> str:
    """The name of an axis of latencies; a logarithm is said, since it looks like a line."""
    return "latency, ms, log scale" if scale.is_log else "latency, ms"
