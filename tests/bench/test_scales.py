import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.scales import latency_scale, linear_scale, log_scale, short_number, tick_label

POSITIVE = st.floats(min_value=1e-3, max_value=1e7)
VALUES = st.lists(POSITIVE, min_size=1, max_size=20)


def labels(ticks: tuple[tuple[float, str], ...]) -> list[str]:
    return [label for _, label in ticks]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([900.0], ["0", "200", "400", "600", "800", "1,000"]),
        ([0.3], ["0", "0.1", "0.2", "0.3"]),
        ([0.0], ["0", "1"]),
        ([], ["0", "1"]),
    ],
)
def test_a_linear_axis_goes_from_0_to_a_round_number(
    values: list[float], expected: list[str]
) -> None:
    assert labels(linear_scale(values, 0, 100, max_ticks=5).ticks) == expected


def test_an_axis_of_whole_things_has_no_ticks_between_them() -> None:
    assert labels(linear_scale([2], 0, 100, max_ticks=8, min_step=1).ticks) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9, 600], ["10", "20", "50", "100", "200", "500"]),
        ([0.01, 2_000_000], ["0.01", "1", "100", "10,000", "1,000,000"]),
        ([19, 2100], ["100", "1,000"]),
        ([41, 43], ["38", "40", "42", "44", "46"]),
        ([], ["0.95", "1", "1.05", "1.1"]),
    ],
)
def test_a_logarithmic_axis_has_round_ticks_however_wide_it_is(
    values: list[float], expected: list[str]
) -> None:
    assert labels(log_scale(values, 0, 100, max_ticks=6).ticks) == expected


def test_a_factor_has_the_same_length_everywhere_on_a_logarithmic_axis() -> None:
    scale = log_scale([1, 1000], 0, 300, max_ticks=6)

    assert scale(100) - scale(10) == pytest.approx(scale(20) - scale(2))


def test_latencies_far_apart_get_a_logarithmic_axis_and_others_one_from_0() -> None:
    assert latency_scale([1, 100], 0, 100, max_ticks=6).is_log
    assert not latency_scale([10, 100], 0, 100, max_ticks=6).is_log
    assert not latency_scale([0.0], 0, 100, max_ticks=6).is_log


@given(VALUES, st.integers(min_value=4, max_value=9))
def test_every_value_and_every_tick_lies_on_the_axis_in_order(
    values: list[float], max_ticks: int
) -> None:
    for make_scale in (linear_scale, log_scale):
        scale = make_scale(values, 300, 20, max_ticks=max_ticks)
        ticks = [value for value, _ in scale.ticks]

        assert scale.low <= min(values)
        assert max(values) <= scale.high * (1 + 1e-6)
        assert all(20 <= scale(value) <= 300 for value in (*values, *ticks))
        assert ticks == sorted(set(ticks))
        assert len(set(labels(scale.ticks))) == len(ticks)
        assert 2 <= len(ticks) <= max_ticks + 1


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, "0"), (0.25, "0.25"), (1500.0, "1,500"), (2e-05, "2e-05")]
)
def test_a_tick_is_as_short_as_it_can_be(value: float, expected: str) -> None:
    assert tick_label(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.12345, "0.1235"), (12.3456, "12.35"), (999.6, "1,000"), (123456.7, "123,457")],
)
def test_a_figure_has_four_digits_and_is_never_written_with_a_power_of_ten(
    value: float, expected: str
) -> None:
    assert short_number(value) == expected
