"""The metrics of all replicas on one page, whichever of them is asked.

Every replica keeps its own page as a file in a directory that they share, a second old at most. Who
is asked adds those of the others to its own. What a replica counted stays when it ends: the page is
kept, and only gauges, which tell of now, are dropped.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

_RUNNING = ".page"
_ENDED = ".ended"
_SERIES = re.compile(rb"^([a-zA-Z_:][\w:]*)((?:\{.*\})?) (\S+)$")
_TYPE = re.compile(rb"^# TYPE (\S+) (\S+)$")
# Of these the largest is what holds for the server: they are no amounts.
_LARGEST = {b"bei_build_info", b"bei_estimated_wait_seconds"}

_Series = dict[tuple[bytes, bytes], float]


class MetricsPages:
    """The pages of the replicas of one server."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, pid: int, page: bytes) -> None:
        """Keep the page of a replica; whoever reads it meanwhile gets the one before."""
        path = self._directory / f"{pid}{_RUNNING}"
        staging = path.with_suffix(".new")
        # Without the folder the supervisor was killed, and this replica ends as well.
        with suppress(FileNotFoundError):
            staging.write_bytes(page)
            staging.rename(path)

    def end(self, pid: int) -> None:
        """Let a replica that ended count for what it did, not for what it does."""
        path = self._directory / f"{pid}{_RUNNING}"
        if path.exists():
            path.rename(path.with_suffix(_ENDED))

    def add_others(self, pid: int, page: bytes) -> bytes:
        """Return the page of the replica `pid` with what the others say added."""
        # One look at the folder: a replica that ends between two would be seen twice, or not at all.
        paths = sorted(path for path in self._directory.glob("*") if path.stem != str(pid))
        ended = [path for path in paths if path.suffix == _ENDED]
        running: list[bytes] = []
        for path in paths:
            if path.suffix == _RUNNING:
                try:
                    running.append(path.read_bytes())
                except FileNotFoundError:
                    # It has ended since.
                    ended.append(path.with_suffix(_ENDED))
        return sum_pages(page, running=running, ended=[path.read_bytes() for path in ended])


def sum_pages(page: bytes, *, running: Sequence[bytes], ended: Sequence[bytes]) -> bytes:
    """Add pages in the Prometheus text format up, series by series, in the order of the first.

    Series that only others have, such as those of a status that this replica never gave, follow
    those of the same metric.
    """
    kinds = dict(_types(page))
    total: _Series = {}
    for each in (page, *running):
        _add(total, each)
    for each in ended:
        _add(total, each, without={name for name, kind in kinds.items() if kind == b"gauge"})
    lines: list[bytes] = []
    for line in page.split(b"\n"):
        if line.startswith(b"# HELP"):
            lines.append(line)
        if (found := _TYPE.match(line)) is None:
            continue
        name = found[1]
        lines.append(line)
        lines += [
            b"%b%b %b" % (series, labels, _number(value))
            for (series, labels), value in total.items()
            if _metric_of(series, kinds) == name
        ]
    return b"\n".join(lines) + b"\n"


def _types(page: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in page.split(b"\n"):
        if found := _TYPE.match(line):
            yield found[1], found[2]


def _add(total: _Series, page: bytes, *, without: set[bytes] | None = None) -> None:
    for line in page.split(b"\n"):
        found = _SERIES.match(line)
        if found is None or (without and found[1] in without):
            continue
        key, value = (found[1], found[2]), float(found[3])
        if key not in total:
            total[key] = value
        elif found[1] in _LARGEST:
            # What is no number says nothing against one that is.
            known = total[key]
            total[key] = value if math.isnan(known) or value > known else known
        else:
            total[key] += value


def _metric_of(series: bytes, kinds: dict[bytes, bytes]) -> bytes:
    """Return the metric that a series belongs to: histograms have three endings, counters one."""
    if series in kinds:
        return series
    for ending in (b"_bucket", b"_sum", b"_count", b"_total"):
        if series.endswith(ending) and series.removesuffix(ending) in kinds:
            return series.removesuffix(ending)
    return series


def _number(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    if math.isinf(value):
        return b"+Inf" if value > 0 else b"-Inf"
    return repr(value).encode()
