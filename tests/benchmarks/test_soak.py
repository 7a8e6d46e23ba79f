"""The benchmark that watches a server for half an hour, for ten seconds, and how it judges."""

from pathlib import Path

import pytest
from tests.benchmarks.running import run_benchmark
from trends import drift, percentile, rise, slope


def test_a_short_soak_finds_no_wrong_answer_and_no_failure(engine: Path, texts: Path) -> None:
    result = run_benchmark("soak.py", "--engine", engine, "--texts", texts, "--minutes", 0.07)

    # Within seconds descriptors and threads say how busy the machine is.
    assert set(result["broken"]) <= {"descriptors", "threads"}
    assert (result["wrong_answers"], result["failures"]) == (0, [])
    assert result["texts"] > 100
    assert result["left"] > 0
    assert result["refused"] > 0
    # Too short for memory and latency to mean anything.
    assert not result["trends_judged"]


def test_a_slope_is_that_of_the_line_that_fits_best() -> None:
    assert slope([(0, 1), (1, 3.5), (2, 4.5), (3, 7)]) == pytest.approx(1.9)
    assert slope([(0, 1)]) == 0


def test_a_drift_compares_the_last_third_with_the_first() -> None:
    assert drift([10, 30, 50, 1, 18, 20]) == pytest.approx(-0.05)
    assert drift([10, 10, 10, 99, 11, 11]) == pytest.approx(0.1)
    assert rise([5, 5, 5, 9, 7, 7]) == 2


def test_a_percentile_is_a_value_that_was_there() -> None:
    values = [float(value) for value in range(100, 0, -1)]

    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile([3.0], 0.99) == 3
