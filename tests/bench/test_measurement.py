import pickle

import pytest

from beicli.bench.histogram import Histogram
from beicli.bench.measurement import Failure, Reply, Round, Tally
from beicli.bench.processes import merge_rounds

OVERLOADED = Failure("status_429", "Model is overloaded")


def tally_with(*latencies_s: float, second: int = 0) -> Tally:
    tally = Tally()
    for latency_s in latencies_s:
        tally.add(Reply(0.0, 3, 50), latency_s=latency_s, second=second, request_bytes=20)
    return tally


def test_merging_adds_everything_up() -> None:
    one, other = tally_with(0.1, 0.2), tally_with(0.3, second=1)
    other.add(Reply(0.0, failure=OVERLOADED), latency_s=1, second=1, request_bytes=20)
    other.late_requests = 2
    other.unfinished_requests = 3
    other.add_outside(Reply(0.0))

    one.merge(other)

    assert (one.num_requests, one.num_tokens) == (3, 9)
    assert (one.request_bytes, one.response_bytes) == (60, 150)
    assert (one.late_requests, one.unfinished_requests, one.num_outside) == (2, 3, 1)
    assert one.failures.most_common() == [(OVERLOADED, 1)]
    assert one.latencies_s.count == 3
    assert {number: second.num_requests for number, second in one.seconds.items()} == {0: 2, 1: 1}
    assert one.seconds[1].num_errors == 1


def test_merging_into_an_empty_one_leaves_the_other_as_it_was() -> None:
    other = tally_with(0.1)
    total = Tally()

    total.merge(other)
    total.merge(tally_with(0.1))

    assert total.seconds[0].num_requests == 2
    assert other.seconds[0].num_requests == other.latencies_s.count == 1


def test_a_tally_does_not_grow_with_the_number_of_requests() -> None:
    def size(tally: Tally) -> int:
        return len(pickle.dumps(tally))

    few, many = tally_with(*[0.1] * 10), tally_with(*[0.1] * 10_000)

    assert size(many) < size(few) + 50


def test_rounds_of_two_processes_share_a_window_and_the_busiest_counts() -> None:
    def round_of(cpu_s: float, window_s: float, model: str | None) -> Round:
        lags_s = Histogram()
        lags_s.add(cpu_s / 10)
        return Round(
            tally=tally_with(0.1),
            window_s=window_s,
            busiest_client_cpu_s=cpu_s,
            loop_lags_s=lags_s,
            served_model=model,
        )

    merged = merge_rounds(round_of(0.2, 1.0, None), round_of(0.7, 1.1, "m"))

    assert merged.busiest_client_cpu_s == 0.7
    assert merged.window_s == 1.1
    assert merged.tally.num_requests == merged.loop_lags_s.count == 2
    assert merged.loop_lags_s.maximum == pytest.approx(0.07)
    assert merged.served_model == "m"
