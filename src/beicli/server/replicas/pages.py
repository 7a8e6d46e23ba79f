"""The metrics of all replicas on one page, whichever of them is asked.

Every replica keeps its own page as a file in a directory that they share, a second old at most. Who
is asked adds those of the others to its own. What a replica counted stays when it ends: the page is
kept, only gauges, which tell of now, are dropped, and the process in its place adds it to its own.
"""

import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_RUNNING = ".page"
_ENDED = ".ended"
_SERIES = re.compile(rb"^([a-zA-Z_:][\w:]*)((?:\{.*\})?) (\S+)$")
_TYPE = re.compile(rb"^# TYPE (\S+) (\S+)$")
# Of these the largest, or the smallest, is what holds for the server: they are no amounts.
_LARGEST = {
    b"bei_build_info",
    b"bei_canary_cosine_min_allowed",
    b"bei_canary_score_error_max",
    b"bei_canary_score_error_max_allowed",
    b"bei_estimated_wait_seconds",
}
_SMALLEST = {b"bei_canary_cosine_min", b"bei_canary_passed", b"bei_canary_timestamp_seconds"}

_Series = dict[tuple[bytes, bytes], float]


class MetricsPages:
    """The pages of the replicas of one server, as the replica `number` sees them.

    It counts on from what the process counted that had this number before.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self._directory = directory
        self._number = number
        self._is_stale = False
        ended = _path(directory, number, _ENDED)
        self._earlier = [ended.read_bytes()] if ended.exists() else []

    def keep(self, page: bytes) -> None:
        """Let the others read this page; whoever reads meanwhile gets the one before.

        Where it cannot be written, the one before stays, and the next is tried again.
        """
        path = _path(self._directory, self._number, _RUNNING)
        staging = path.with_suffix(".new")
        try:
            staging.write_bytes(sum_pages(page, running=[], ended=self._earlier))
            staging.rename(path)
        except FileNotFoundError:
            # Without the folder the supervisor was killed, and this replica ends as well.
            return
        except OSError as error:
            # Memory or disk is full: no reason to stop serving, nor to say so every second.
            if not self._is_stale:
                logger.warning("the other replicas' metrics lack this one: %s", error)
            self._is_stale = True
            return
        self._is_stale = False

    def add_others(self, page: bytes) -> bytes:
        """Return this replica's page with what the others say, and what was counted before, added.

        What is told once is told by all from then on, so counters never go down.
        """
        self.keep(page)
        # One look at the folder: a replica that ends between two would count twice, or not at all.
        found = {path.name for path in self._directory.glob("*")}
        running, ended = [], list(self._earlier)
        numbers = {name.partition(".")[0] for name in found if name.endswith((_RUNNING, _ENDED))}
        for number in sorted(numbers - {str(self._number)}):
            if f"{number}{_RUNNING}" in found:
                try:
                    running.append(_path(self._directory, number, _RUNNING).read_bytes())
                    continue
                except FileNotFoundError:
                    # It has ended since.
                    pass
            ended.append(_path(self._directory, number, _ENDED).read_bytes())
        return sum_pages(page, running=running, ended=ended)


def end_page(directory: Path, number: int) -> None:
    """Let the replica `number`, which ended, count for what it did, not for what it does."""
    # It may have ended before it wrote one; and if it cannot be renamed, the page counts as it is.
    with suppress(OSError):
        _path(directory, number, _RUNNING).rename(_path(directory, number, _ENDED))


def _path(directory: Path, number: int | str, ending: str) -> Path:
    return directory / f"{number}{ending}"


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
            total[key] = _chosen(max, total[key], value)
        elif found[1] in _SMALLEST:
            total[key] = _chosen(min, total[key], value)
        else:
            total[key] += value


def _chosen(choose: Callable[[list[float]], float], known: float, value: float) -> float:
    """Choose; what is no number says nothing against one that is."""
    numbers = [number for number in (known, value) if not math.isnan(number)]
    return choose(numbers) if numbers else math.nan


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
