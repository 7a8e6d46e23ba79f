import time

import pytest

from beicli.scheduler.slots import SlotTimes


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock's time, to be set."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def test_slots_are_busy_with_what_ended_and_with_what_runs(now: list[float]) -> None:
    times = SlotTimes(2)
    times.begin(0, 100.0)
    times.end(0, 101.0)
    times.begin(0, 103.0)
    times.begin(1, 104.0)

    now[0] = 106.0

    assert times.busy_s() == 1 + 3 + 2
    assert times.num_running == 2
    assert times.longest_running_s() == 3


def test_slots_that_do_nothing_are_not_busy(now: list[float]) -> None:
    times = SlotTimes(2)

    now[0] = 200.0

    assert (times.busy_s(), times.num_running, times.longest_running_s()) == (0, 0, 0)


def test_a_batch_that_ended_before_it_was_looked_at_takes_nothing_back(now: list[float]) -> None:
    times = SlotTimes(1)
    times.begin(0, 100.0)
    now[0] = 101.0
    assert times.busy_s() == 1

    times.end(0, 100.75)

    assert times.busy_s() == 1
