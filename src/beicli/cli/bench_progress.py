"""How far `bei bench` is, on stderr: lines that stay, and figures that move on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beicli.bench.client import Progress
    from beicli.bench.run import Stage
    from beicli.bench.settings import BenchSettings


@contextmanager
def progress_on_stderr(
    settings: "BenchSettings",
) -> Iterator[Callable[["Stage", "Progress"], None]]:
    """One line a phase; where stderr is a terminal, a line below it that keeps counting."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    lines = PhaseLines(settings)
    figures = LiveFigures(settings)
    # A slow refresh: the client's processor time belongs to the load.
    with console.status("connecting", refresh_per_second=2) as status:

        def show(stage: "Stage", progress: "Progress") -> None:
            if line := lines.next_line(stage, progress):
                console.print(line, markup=False)
            if console.is_terminal:
                # `Text`, since an IPv6 address may look like markup.
                status.update(Text(figures.line(stage, progress)))

        yield show


class PhaseLines:
    """What is said once for each point and phase."""

    def __init__(self, settings: "BenchSettings") -> None:
        self._settings = settings
        self._said: set[tuple[str, str]] = set()

    def next_line(self, stage: "Stage", progress: "Progress") -> str | None:
        key = (stage.load, progress.phase)
        if key in self._said:
            return None
        self._said.add(key)
        settings = self._settings
        has_many = len(settings.loads) > 1
        where = f"  {stage.load}" if has_many else ""
        turns = "" if stage.server is None else f", two servers in {stage.num_rounds} turns each"
        lines = {
            "warm-up": f"Warming up   {settings.warmup_s:g} s{where}",
            "window": f"Measuring    {settings.duration_s:g} s{where}{turns}",
            "last requests": f"Finishing    the requests in flight{where}",
        }
        return lines[progress.phase]


class LiveFigures:
    """The line that moves; texts a second are those since the last line."""

    def __init__(self, settings: "BenchSettings") -> None:
        self._settings = settings
        self._last = (time.perf_counter(), 0)

    def line(self, stage: "Stage", progress: "Progress") -> str:
        now_s = time.perf_counter()
        last_s, last_requests = self._last
        self._last = (now_s, progress.num_requests)
        # A new round counts from zero.
        num_new = max(progress.num_requests - last_requests, 0)
        rate = num_new * self._settings.batch_size / max(now_s - last_s, 1e-3)
        parts = [
            stage.load,
            f"{progress.phase} {progress.elapsed_s:.0f}/{progress.total_s:.0f} s",
            f"{rate:,.0f} texts/s",
        ]
        if stage.server is not None:
            name = "url" if stage.server == self._settings.target.url else "against"
            parts.insert(1, f"{name}, turn {stage.round_number + 1}/{stage.num_rounds}")
        if progress.p50_ms:
            parts.append(f"p50 {progress.p50_ms:,.1f} ms, p99 {progress.p99_ms:,.1f} ms")
        if progress.num_errors:
            parts.append(f"{progress.num_errors:,} errors")
        return "   ".join(parts)
