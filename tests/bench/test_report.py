from dataclasses import replace
from typing import Any

import pytest

from beicli.bench.batch_fill import BatchFill
from beicli.bench.histogram import Histogram
from beicli.bench.loads import Load
from beicli.bench.measurement import Failure, Reply, Round, Tally
from beicli.bench.report import PointMeasurement, point_to_json, ratio_of_rounds
from beicli.errors import BenchError

OVERLOADED = Failure("status_429", "Model is overloaded")
REFUSED = Failure("connection_refused", "Connection refused")


def tally_of(
    num_requests: int = 1, *, latency_s: float = 0.1, num_tokens: int | None = 10, second: int = 0
) -> Tally:
    tally = Tally()
    reply = Reply(0.0, num_tokens, response_bytes=1000)
    for _ in range(num_requests):
        tally.add(reply, latency_s=latency_s, second=second, request_bytes=100)
    return tally


def add_failures(tally: Tally, *failures: Failure) -> Tally:
    for failure in failures:
        tally.add(Reply(0.0, failure=failure), latency_s=9.0, second=0, request_bytes=100)
    return tally


def round_of(tally: Tally, **changes: Any) -> Round:
    base = Round(tally=tally, window_s=4.0, busiest_client_cpu_s=1.0, loop_lags_s=Histogram())
    return replace(base, **changes)


def point_of(*rounds: Round) -> PointMeasurement:
    return PointMeasurement(load=Load(concurrency=2), batch_size=4, rounds=rounds)


def test_rates_are_per_second_of_the_window() -> None:
    point = point_to_json(point_of(round_of(tally_of(8))))

    assert point["requests_per_second"] == 2
    assert point["texts_per_second"] == 8
    assert point["tokens_per_second"] == 20
    assert point["client_cpu_fraction"] == 0.25


def test_rounds_add_up_and_their_windows_too() -> None:
    rounds = (round_of(tally_of(8)), round_of(tally_of(2, latency_s=0.3, second=4), window_s=1.0))
    point = point_to_json(point_of(*rounds))

    assert point["window_s"] == 5
    assert point["num_requests"] == 10
    assert point["requests_per_second"] == 2
    assert point["latency_ms"]["mean"] == pytest.approx(140)
    assert point["latency_ms"]["p50"] == pytest.approx(100, rel=1e-3)
    assert point["latency_ms"]["p90"] == point["latency_ms"]["max"] == pytest.approx(300)
    assert [second["texts"] for second in point["timeline"]] == [32, 0, 0, 0, 8]


def test_a_second_without_a_success_has_no_percentile() -> None:
    timeline = point_to_json(point_of(round_of(tally_of(1, second=2))))["timeline"]

    assert [second["second"] for second in timeline] == [0, 1, 2, 3]
    assert timeline[0] == {"second": 0, "texts": 0, "p50_ms": None, "p99_ms": None, "errors": 0}
    assert timeline[2]["p99_ms"] == pytest.approx(100, rel=0.02)


def test_failed_requests_add_no_texts_bytes_or_latency() -> None:
    point = point_to_json(point_of(round_of(add_failures(tally_of(1), OVERLOADED))))

    assert point["num_texts"] == 4
    assert (point["request_bytes"], point["response_bytes"]) == (100, 1000)
    assert point["latency_ms"]["max"] == pytest.approx(100)
    assert point["num_failed_requests"] == 1
    assert point["timeline"][0]["errors"] == 1


def test_tokens_are_unknown_when_the_server_leaves_them_out_even_once() -> None:
    tally = tally_of(5)
    tally.merge(tally_of(1, num_tokens=None))

    point = point_to_json(point_of(round_of(tally)))

    assert point["num_tokens"] is None
    assert point["tokens_per_second"] is None


def test_failures_are_counted_by_kind_with_the_first_message_most_frequent_first() -> None:
    another = replace(OVERLOADED, message="another text")
    tally = add_failures(tally_of(1), REFUSED, OVERLOADED, another)

    assert point_to_json(point_of(round_of(tally)))["errors"] == [
        {"kind": "status_429", "count": 2, "first_message": "Model is overloaded"},
        {"kind": "connection_refused", "count": 1, "first_message": "Connection refused"},
    ]


def lags(lag_s: float) -> Histogram:
    histogram = Histogram()
    histogram.add(lag_s)
    return histogram


@pytest.mark.parametrize(
    ("cpu_s", "lag_s", "latency_s", "is_limit"),
    [
        (1.0, 0.001, 0.1, False),
        (3.5, 0.001, 0.1, False),
        (3.7, 0.001, 0.1, True),
        (1.0, 0.05, 0.1, True),
        # Late, but next to nothing of what was measured.
        (1.0, 0.05, 1.0, False),
        # Much of what was measured, but nothing a busy machine would not do.
        (1.0, 0.01, 0.01, False),
    ],
)
def test_a_busy_or_late_client_is_the_limit(
    cpu_s: float, lag_s: float, latency_s: float, *, is_limit: bool
) -> None:
    tally = tally_of(1, latency_s=latency_s)
    measured = round_of(tally, busiest_client_cpu_s=cpu_s, loop_lags_s=lags(lag_s))

    point = point_to_json(point_of(measured))

    assert point["client_is_limit"] is is_limit
    assert point["client_loop_lag_p99_ms"] == pytest.approx(lag_s * 1e3, rel=1e-3)


def test_batch_fill_is_told_where_it_is_known() -> None:
    fill = BatchFill(num_batches=7, sequences_per_batch=2.5, real_token_fraction=0.75)

    point = point_to_json(replace(point_of(round_of(tally_of(1))), batch_fill=fill))

    assert point["batch_fill"] == {
        "num_batches": 7,
        "sequences_per_batch": 2.5,
        "real_token_fraction": 0.75,
    }
    assert point_to_json(point_of(round_of(tally_of(1))))["batch_fill"] is None


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    one = point_of(*(round_of(tally_of(count)) for count in (20, 30, 90)))
    other = point_of(*(round_of(tally_of(10)) for _ in range(3)))

    assert ratio_of_rounds(one, other) == 3
    assert ratio_of_rounds(other, one) == pytest.approx(1 / 3, abs=1e-4)


def test_rounds_without_an_answer_leave_the_ratio_of_all() -> None:
    one = point_of(round_of(tally_of(20)), round_of(Tally()))
    other = point_of(round_of(Tally()), round_of(tally_of(10)))

    assert ratio_of_rounds(one, other) == 2


def test_when_nothing_succeeded_the_most_frequent_error_and_a_hint_are_told() -> None:
    tally = add_failures(Tally(), OVERLOADED, REFUSED, REFUSED)

    with pytest.raises(BenchError) as caught:
        point_to_json(point_of(round_of(tally)))

    assert "connection_refused, 2 times: Connection refused" in caught.value.message
    assert "`bei serve`" in (caught.value.hint or "")


def test_failures_that_came_after_the_window_explain_an_empty_one() -> None:
    tally = Tally()
    tally.add_outside(Reply(0.0, failure=OVERLOADED))

    with pytest.raises(BenchError, match="status_429, 1 times"):
        point_to_json(point_of(round_of(tally)))


def test_a_window_that_is_too_short_is_told_apart_from_a_failing_server() -> None:
    tally = Tally()
    tally.add_outside(Reply(0.0))
    tally.add_outside(Reply(0.0, failure=OVERLOADED))

    with pytest.raises(BenchError, match="no request completed within the window of 4 s"):
        point_to_json(point_of(round_of(tally)))


def test_an_interruption_before_the_window_is_told() -> None:
    early = round_of(Tally(), is_interrupted=True, window_s=0.0)

    with pytest.raises(BenchError, match="interrupted before a request was measured"):
        point_to_json(point_of(early))
