import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beicli.builder.quantization.scales import (
    DYNAMIC_GROUP_SIZE,
    MAX_LEVEL,
    Float32,
    bias_of_static,
    choose_scale,
    dynamic_product,
    quantize_weight,
    relative_error,
    static_product,
)

# A rounding to 255 levels is off by at most half a level; the square of that, of normal numbers
# whose range is five or six times their size, comes to a few ten-thousandths.
GOOD_ERROR = 1e-3


def normal(seed: int, *shape: int) -> Float32:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.integers(0, 1000), st.floats(1e-4, 1e4))
def test_weights_are_off_by_half_a_level_at_most(seed: int, factor: float) -> None:
    weight = normal(seed, 16, 5) * np.float32(factor)

    quantized = quantize_weight(weight)

    assert quantized.levels.dtype == np.int8
    assert np.abs(quantized.levels.astype(int)).max() == MAX_LEVEL
    assert (np.abs(quantized.values - weight) <= quantized.scale * 0.5001).all()


def test_an_output_without_weights_stays_without() -> None:
    weight = normal(0, 8, 3)
    weight[:, 1] = 0

    assert not quantize_weight(weight).values[:, 1].any()


def scale_of(rows: Float32, weight: Float32) -> float:
    scale = choose_scale(rows, rows.min(axis=0), rows.max(axis=0), weight)
    return relative_error(rows @ weight, static_product(rows, weight, scale))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_ordinary_activations_lose_next_to_nothing(seed: int) -> None:
    assert scale_of(normal(seed, 200, 32), normal(seed + 1, 32, 24)) < GOOD_ERROR


def test_a_channel_that_towers_above_the_others_does_not_drown_them() -> None:
    rows, weight = normal(0, 200, 32), normal(1, 32, 24)
    rows[:, 5] *= 100
    weight[5] /= 100

    assert scale_of(rows, weight) < GOOD_ERROR


def test_a_channel_far_from_zero_is_moved_there() -> None:
    rows, weight = normal(0, 200, 32), normal(1, 32, 24)
    rows[:, 7] += 50

    scale = choose_scale(rows, rows.min(axis=0), rows.max(axis=0), weight)
    found = static_product(rows, weight, scale)

    assert scale.shift[7] == pytest.approx(50, abs=2)
    assert np.abs(found - rows @ weight).max() < 0.5


def test_activations_that_are_all_alike_are_no_trouble() -> None:
    rows, weight = np.ones((50, 16), np.float32), normal(1, 16, 8)

    assert scale_of(rows, weight) < GOOD_ERROR
    assert scale_of(np.zeros((50, 16), np.float32), weight) == 0


def test_a_single_token_out_of_range_is_cut_rather_than_all_made_coarse() -> None:
    rows, weight = normal(0, 400, 32), normal(1, 32, 24)
    low, high = rows.min(axis=0), rows.max(axis=0)

    scale = choose_scale(rows, low * 8, high * 8, weight)

    assert relative_error(rows @ weight, static_product(rows, weight, scale)) < 10 * GOOD_ERROR


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_bias_is_what_a_static_product_adds_to_its_levels(seed: int) -> None:
    rows, weight = normal(seed, 100, 16) + 3, normal(seed + 1, 16, 8)
    scale = choose_scale(rows, rows.min(axis=0), rows.max(axis=0), weight)

    quantized = quantize_weight(weight * scale.channel[:, None])
    levels = scale.levels(rows) * np.float32(scale.step)
    found = levels @ quantized.values + bias_of_static(rows, weight, scale)

    np.testing.assert_allclose(found, static_product(rows, weight, scale), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose((found - rows @ weight).mean(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize("num_features", [1, DYNAMIC_GROUP_SIZE, DYNAMIC_GROUP_SIZE + 1, 300])
def test_a_token_of_any_size_has_its_own_scales(num_features: int) -> None:
    rows = normal(0, 60, num_features) * np.geomspace(1e-3, 1e3, 60, dtype=np.float32)[:, None]
    weight = normal(1, num_features, 24)
    wanted = rows @ weight

    difference = np.abs(dynamic_product(rows, weight) - wanted)

    assert (difference.mean(axis=1) <= 0.02 * np.abs(wanted).mean(axis=1)).all()


def test_the_error_does_not_depend_on_the_unit() -> None:
    wanted, found = normal(0, 50, 8), normal(1, 50, 8)

    assert relative_error(1000 * wanted, 1000 * found) == pytest.approx(
        relative_error(wanted, found), rel=1e-4
    )
    assert relative_error(wanted, wanted) == 0


def test_rows_that_are_next_to_nothing_do_not_count_as_lost() -> None:
    wanted = normal(0, 50, 8)
    wanted[3] = 1e-6
    found = wanted.copy()
    found[3] = -1e-6

    assert relative_error(wanted, found) < 1e-9
