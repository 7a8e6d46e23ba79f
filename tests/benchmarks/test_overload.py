"""The benchmark that offers a server twice what it can do, for a moment, and how it judges."""

from pathlib import Path

import pytest
from overload import BULK, INTERACTIVE, Outcome, Window, summarise
from tests.benchmarks.running import run_benchmark

WINDOW = Window(0.0, 100.0)
# So much of either kind a second.
PEAK_RATE = 2


def outcomes(status: int, rate: int, latency_s: float, *, is_told: bool = True) -> list[Outcome]:
    moments = [number / rate for number in range(100 * rate)]
    return [Outcome(at, at + latency_s, status, has_retry_after=is_told) for at in moments]


def judge(
    *, answered: int = PEAK_RATE, latency_s: float = 0.0, refusals: list[Outcome] | None = None
) -> list[str]:
    peak = {kind: outcomes(200, PEAK_RATE, 0.0) for kind in (INTERACTIVE, BULK)}
    under = {
        INTERACTIVE: outcomes(200, answered, latency_s) + (refusals or []),
        BULK: outcomes(200, answered, 5.0),
    }
    rates = {INTERACTIVE: 4.0, BULK: 4.0}
    broken = summarise(0.1, (WINDOW, peak), rates, (WINDOW, under))["broken"]
    assert isinstance(broken, list)
    return broken


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ([], judge()),
        ([], judge(latency_s=0.19, refusals=outcomes(429, 4, 0.0))),
        (["goodput"], judge(answered=1)),
        (["interactive_p99"], judge(latency_s=0.21)),
        (["retry_after"], judge(refusals=outcomes(429, 4, 0.0, is_told=False))),
        (["failures"], judge(refusals=outcomes(0, 1, 0.0))),
        (["failures"], judge(refusals=outcomes(500, 1, 0.0))),
    ],
)
def test_what_was_not_kept_is_named(broken: list[str], found: list[str]) -> None:
    assert found == broken


def test_a_short_overload_is_measured_to_its_end(engine: Path, texts: Path) -> None:
    arguments = ("--engine", engine, "--texts", texts, "--minutes", 0.02, "--peak-seconds", 2)

    result = run_benchmark("overload.py", *arguments)

    # So short, and on a machine that does other things, it is no measurement.
    assert result["peak_texts_per_second"] > 0
    assert result["statuses"]["200"] > 0
    assert result["refusals_with_retry_after"] in {None, 1.0}
