"""Whether a server changes over time: what a process holds, and which way series of numbers go."""

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Of a run, in the beginning: kernels are made for new shapes, and memory is taken.
WARM_UP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server's processes hold together at one moment of the monotonic clock."""

    at: float
    resident_mb: float
    descriptors: int
    threads: int


def take_sample(pid: int) -> Sample:
    """Look at a process and all that it started, replicas for one."""
    resident_kb = descriptors = threads = 0
    for each in (pid, *_children(pid)):
        status = Path(f"/proc/{each}/status").read_text(encoding="ascii")
        resident_kb += _number(status, "VmRSS")
        threads += _number(status, "Threads")
        descriptors += sum(1 for _ in Path(f"/proc/{each}/fd").iterdir())
    return Sample(time.monotonic(), resident_kb / 1024, descriptors, threads)


def _children(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="ascii").split()
    ]
    return children + [each for child in children for each in _children(child)]


def _number(status: str, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", status)
    return int(found.group(1)) if found else 0


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope of y over x; 0 for fewer than two points."""
    if len(points) < 2:  # noqa: PLR2004 - a line
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share is not above."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def drift(values: Sequence[float]) -> float:
    """Return how far the median of the last third is above that of the first, as a share of it."""
    third = max(len(values) // 3, 1)
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    return last / first - 1 if first else 0.0


def rise(values: Sequence[int]) -> float:
    """Return by how many the median of the last third is above that of the first."""
    third = max(len(values) // 3, 1)
    return statistics.median(values[-third:]) - statistics.median(values[:third])
