import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.histogram import Histogram

VALUES = st.lists(st.floats(min_value=1e-9, max_value=1e6), min_size=1, max_size=200)
PERCENTS = st.sampled_from([0.1, 1, 7, 50, 90, 95, 99, 99.9, 100])


def histogram_of(values: list[float], *, parts: int = 1024) -> Histogram:
    histogram = Histogram(parts)
    for value in values:
        histogram.add(value)
    return histogram


@given(VALUES, PERCENTS)
def test_a_percentile_is_the_nearest_rank_within_a_thousandth(
    values: list[float], percent: float
) -> None:
    exact = sorted(values)[max(math.ceil(round(percent * len(values) / 100, 6)), 1) - 1]

    found = histogram_of(values).percentile(percent)

    assert exact <= found <= exact * 1.001


@given(VALUES, PERCENTS, PERCENTS)
def test_percentiles_never_fall_and_end_at_the_maximum(
    values: list[float], one: float, other: float
) -> None:
    histogram = histogram_of(values)
    low, high = sorted((one, other))

    assert histogram.percentile(low) <= histogram.percentile(high) <= max(values)
    assert histogram.percentile(100) == max(values)


@given(VALUES, VALUES, PERCENTS)
def test_merged_histograms_are_that_of_all_values(
    one: list[float], other: list[float], percent: float
) -> None:
    merged = histogram_of(one)
    merged.merge(histogram_of(other))

    together = histogram_of([*one, *other])
    assert merged.percentile(percent) == together.percentile(percent)
    assert merged.coarse_buckets() == together.coarse_buckets()
    assert merged.mean == pytest.approx(together.mean)
    assert merged.maximum == together.maximum


@given(VALUES)
def test_coarse_buckets_hold_every_value_below_bounds_that_rise(values: list[float]) -> None:
    buckets = histogram_of(values).coarse_buckets()

    bounds = [bound for bound, _ in buckets]
    assert bounds == sorted(set(bounds))
    assert sum(count for _, count in buckets) == len(values)
    for number, (bound, _) in enumerate(buckets):
        num_up_to_here = sum(count for _, count in buckets[: number + 1])
        assert sum(value <= bound for value in values) >= num_up_to_here


def test_the_seventh_percentile_of_a_hundred_values_is_the_seventh() -> None:
    # 0.07 x 100 is 7.000000000000001 in floating point, which would give the eighth.
    assert histogram_of([float(n) for n in range(1, 101)]).percentile(7) == pytest.approx(7, 1e-3)


def test_its_size_depends_on_the_range_and_not_on_the_number_of_values() -> None:
    histogram = Histogram()
    for number in range(50_000):
        # From one millisecond to four: two powers of two.
        histogram.add(0.001 * 4 ** (number / 50_000))

    assert histogram.count == 50_000
    assert histogram.num_buckets <= 2 * 1024 + 1


def test_fewer_parts_are_coarser() -> None:
    histogram = histogram_of([1.0 + n / 1000 for n in range(1000)], parts=64)

    assert histogram.num_buckets == 64
    assert histogram.percentile(50) == pytest.approx(1.5, rel=0.02)


def test_an_empty_one_and_one_of_nothing_but_zeros_are_zero() -> None:
    assert Histogram().percentile(99) == Histogram().mean == 0
    assert histogram_of([0.0, -1e-12]).percentile(50) == 0


def test_it_travels_between_processes() -> None:
    histogram = histogram_of([0.25, 0.5])

    copy = pickle.loads(pickle.dumps(histogram))  # noqa: S301 - our own bytes

    assert copy.coarse_buckets() == histogram.coarse_buckets()
