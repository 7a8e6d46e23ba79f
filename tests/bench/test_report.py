import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.dataset import Dataset
from beicli.bench.measurement import Failure, Measurement, Sample
from beicli.bench.report import BenchReport, count_failures, percentile, summarize
from beicli.bench.settings import BenchSettings
from beicli.bench.workload import plan_workload
from beicli.errors import BenchError

SETTINGS = BenchSettings(url="http://127.0.0.1:7997", concurrency=2, batch_size=4)
WORKLOAD = plan_workload(
    Dataset(name="test", texts=("aa", "bbbb")), concurrency=2, batch_size=4, seed=0
)
OVERLOADED = Failure("status_429", "Model is overloaded")
REFUSED = Failure("connection_refused", "Connection refused")


def sample(
    completed_at_s: float,
    *,
    latency_s: float = 0.1,
    num_tokens: int | None = 10,
    failure: Failure | None = None,
) -> Sample:
    return Sample(
        completed_at_s=completed_at_s,
        latency_s=latency_s,
        num_tokens=num_tokens,
        request_bytes=100,
        response_bytes=1000,
        failure=failure,
    )


def measurement(*samples: Sample) -> Measurement:
    return Measurement(samples=samples, window_start_s=100.0, window_end_s=104.0, client_cpu_s=1.0)


def report_on(*samples: Sample) -> BenchReport:
    return summarize(measurement(*samples), settings=SETTINGS, workload=WORKLOAD)


VALUES = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=300).map(sorted)
PERCENTS = st.integers(min_value=1, max_value=100)


@given(VALUES, PERCENTS)
def test_a_percentile_is_the_smallest_value_that_enough_values_do_not_exceed(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent)

    def num_not_above(limit: float) -> int:
        return sum(value <= limit for value in values)

    smaller = [value for value in values if value < found]
    assert found in values
    assert num_not_above(found) * 100 >= percent * len(values)
    assert all(num_not_above(value) * 100 < percent * len(values) for value in smaller)


@given(VALUES, PERCENTS, PERCENTS)
def test_percentiles_never_fall_and_end_at_the_maximum(
    values: list[float], one: int, other: int
) -> None:
    low, high = sorted((one, other))

    assert percentile(values, low) <= percentile(values, high) <= percentile(values, 100)
    assert percentile(values, 100) == values[-1]


def test_the_seventh_percentile_of_a_hundred_values_is_the_seventh() -> None:
    # 0.07 x 100 is 7.000000000000001 in floating point, which would give the eighth.
    assert percentile(list(range(1, 101)), 7) == 7


def test_rates_are_per_second_of_the_window() -> None:
    report = report_on(*(sample(101.0) for _ in range(8)))

    assert report.requests_per_second == pytest.approx(2.0)
    assert report.texts_per_second == pytest.approx(8.0)
    assert report.tokens_per_second == pytest.approx(20.0)
    assert report.client_cpu_fraction == pytest.approx(0.25)


def test_only_requests_completed_inside_the_window_count_wherever_they_began() -> None:
    report = report_on(
        sample(99.9, latency_s=7.0),
        sample(100.0, latency_s=2.0),
        sample(103.9, latency_s=1.0),
        sample(104.1, latency_s=9.0),
        sample(99.0, failure=OVERLOADED),
    )

    assert report.num_requests == 2
    assert report.latency_ms(100) == pytest.approx(2000.0)
    assert report.num_failed_requests == 0


def test_failed_requests_add_no_texts_bytes_or_latency() -> None:
    report = report_on(sample(101.0), sample(102.0, latency_s=3.0, failure=OVERLOADED))

    assert report.num_texts == 4
    assert (report.request_bytes, report.response_bytes) == (100, 1000)
    assert report.latency_ms(100) == pytest.approx(100.0)
    assert report.num_failed_requests == 1


def test_tokens_are_unknown_when_the_server_leaves_them_out_even_once() -> None:
    report = report_on(sample(101.0), sample(102.0, num_tokens=None))

    assert report.num_tokens is None
    assert report.tokens_per_second is None
    assert report.to_json()["tokens_per_second"] is None
    assert ("tokens", "not told by the server") in list(report.rows())


def test_failures_are_counted_by_kind_with_the_first_message() -> None:
    second_refusal = replace(OVERLOADED, message="another text")
    samples = [
        sample(1.0, failure=failure) for failure in (REFUSED, OVERLOADED, second_refusal, None)
    ]

    assert count_failures(samples) == ((OVERLOADED, 2), (REFUSED, 1))


def test_json_has_exactly_the_promised_keys() -> None:
    assert list(report_on(sample(101.0)).to_json()) == [
        "schema_version",
        "url",
        "model",
        "served_model",
        "encoding_format",
        "dimensions",
        "concurrency",
        "batch_size",
        "duration_s",
        "warmup_s",
        "timeout_s",
        "seed",
        "dataset",
        "dataset_num_texts",
        "dataset_mean_characters",
        "interrupted",
        "window_s",
        "num_requests",
        "num_failed_requests",
        "num_texts",
        "num_tokens",
        "requests_per_second",
        "texts_per_second",
        "tokens_per_second",
        "latency_p50_ms",
        "latency_p90_ms",
        "latency_p99_ms",
        "latency_max_ms",
        "request_bytes",
        "response_bytes",
        "client_cpu_fraction",
        "errors",
    ]


def test_the_key_of_the_server_is_nowhere_in_the_report() -> None:
    settings = replace(SETTINGS, api_key="s3cret")

    report = summarize(measurement(sample(101.0)), settings=settings, workload=WORKLOAD)

    assert "s3cret" not in f"{report} {report.to_json()} {list(report.rows())}"


def test_a_busy_client_is_pointed_out() -> None:
    busy = replace(measurement(sample(101.0)), client_cpu_s=3.9)

    report = summarize(busy, settings=SETTINGS, workload=WORKLOAD)

    assert "the client may be the limit" in dict(report.rows())["client"]
    assert "limit" not in dict(report_on(sample(101.0)).rows())["client"]


def test_when_nothing_succeeded_the_most_frequent_error_and_a_hint_are_told() -> None:
    with pytest.raises(BenchError) as caught:
        report_on(
            sample(101.0, failure=OVERLOADED),
            sample(101.0, failure=REFUSED),
            sample(102.0, failure=REFUSED),
        )

    assert "connection_refused, 2 times: Connection refused" in caught.value.message
    assert "`bei serve`" in (caught.value.hint or "")


def test_failures_that_came_after_the_window_explain_an_empty_one() -> None:
    with pytest.raises(BenchError, match="status_429, 1 times"):
        report_on(sample(110.0, failure=OVERLOADED))


def test_a_window_that_is_too_short_is_told_apart_from_a_failing_server() -> None:
    with pytest.raises(BenchError, match="no request completed within the window of 4 s"):
        report_on(sample(110.0), sample(111.0, failure=OVERLOADED))


def test_an_interruption_before_the_window_is_told() -> None:
    early = replace(
        measurement(), is_interrupted=True, window_start_s=math.inf, window_end_s=math.inf
    )

    with pytest.raises(BenchError, match="interrupted before a request was measured"):
        summarize(early, settings=SETTINGS, workload=WORKLOAD)
