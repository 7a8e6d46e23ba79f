import pytest

from beicli.bench.client import Progress
from beicli.bench.loads import Load
from beicli.bench.run import Stage
from beicli.bench.settings import BenchSettings, Target
from beicli.cli.bench_progress import LiveFigures, PhaseLines

ALONE = Stage("concurrency 8", None, 0, 1)
TURN = Stage("concurrency 8", "http://127.0.0.1:81", 1, 5)


def settings_for(*loads: int, batch_size: int = 1) -> BenchSettings:
    return BenchSettings(
        target=Target("http://127.0.0.1:80"),
        against=Target("http://127.0.0.1:81"),
        loads=tuple(Load(concurrency=load) for load in loads),
        batch_size=batch_size,
    )


def test_a_phase_is_said_once_for_each_load() -> None:
    lines = PhaseLines(settings_for(8, 9))
    window = Progress("window", 0.0, 10.0)

    assert lines.next_line(ALONE, window) == "Measuring    10 s  concurrency 8"
    assert lines.next_line(ALONE, window) is None
    assert lines.next_line(Stage("concurrency 9", None, 0, 1), window) is not None


def test_turns_are_announced_with_the_first_of_them() -> None:
    line = PhaseLines(settings_for(8)).next_line(TURN, Progress("window", 0.0, 2.0))

    assert line == "Measuring    10 s, two servers in 5 turns each"


def test_the_figures_tell_phase_rate_latency_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 100.5, 101.0])
    monkeypatch.setattr("beicli.cli.bench_progress.time.perf_counter", lambda: next(moments))
    figures = LiveFigures(settings_for(8, batch_size=4))

    first = figures.line(ALONE, Progress("warm-up", 0.5, 2.0, num_requests=50))
    second = figures.line(
        TURN,
        Progress("window", 1.0, 2.0, num_requests=150, num_errors=1200, p50_ms=2, p99_ms=9.04),
    )

    assert first == "concurrency 8   warm-up 0/2 s   400 texts/s"
    assert second == (
        "concurrency 8   against, turn 2/5   window 1/2 s   800 texts/s   "
        "p50 2.0 ms, p99 9.0 ms   1,200 errors"
    )


def test_a_new_round_that_counts_from_zero_has_no_negative_rate() -> None:
    figures = LiveFigures(settings_for(8))
    figures.line(ALONE, Progress("window", 1.0, 2.0, num_requests=500))

    line = figures.line(ALONE, Progress("warm-up", 0.0, 2.0))

    assert " 0 texts/s" in line
