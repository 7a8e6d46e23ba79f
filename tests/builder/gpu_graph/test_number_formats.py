import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beicli.builder.gpu_graph.number_formats import (
    BLOCK_SIZE,
    FP4_MAX,
    FP8_MAX,
    Float32,
    emulate_fp4,
    emulate_fp8,
    fp4_global_scale,
    fp8_scale,
    quantize_fp4,
    quantize_fp8,
    to_fp4,
    to_fp8,
)

# The numbers of E2M1 as its definition lists them, without their signs.
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def normal(*shape: int) -> Float32:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def nearest_even(values: Float32, numbers: Float32) -> Float32:
    """Round to the nearest of `numbers`, ascending; of two that are as near, the even code."""
    above = np.clip(np.searchsorted(numbers, values), 1, len(numbers) - 1)
    below = above - 1
    to_above, to_below = numbers[above] - values, values - numbers[below]
    # Codes count up from zero, so the position of a number has the parity of its code.
    tie = np.where(below % 2 == 0, below, above)
    chosen = np.where(to_above < to_below, above, np.where(to_above > to_below, below, tie))
    rounded: Float32 = numbers[chosen]
    return rounded


def test_every_code_of_fp8_is_the_number_that_torch_takes_it_for() -> None:
    codes = np.arange(256, dtype=np.uint8)
    numbers = torch.from_numpy(codes).view(torch.float8_e4m3fn).to(torch.float32).numpy()
    # 0x7f and 0xff are no numbers; there is no infinity.
    is_number = ~np.isnan(numbers)

    found = to_fp8(numbers[is_number])

    assert is_number.sum() == 254
    np.testing.assert_array_equal(found.view(np.uint8), codes[is_number])


def test_fp8_rounds_as_torch_does_and_saturates_beyond_its_largest_number() -> None:
    grid = np.linspace(-1.2 * FP8_MAX, 1.2 * FP8_MAX, 100_001, dtype=np.float32)
    values = np.concatenate([grid, grid / 4096])
    limited = torch.from_numpy(values).clamp(-FP8_MAX, FP8_MAX)

    found = to_fp8(values)

    wanted = limited.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(found.view(np.uint8), wanted)


def test_fp8_rounds_to_the_nearest_of_its_numbers_and_to_the_even_one_of_two() -> None:
    numbers = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    middles = (numbers[1:] + numbers[:-1]) / 2
    values = np.concatenate([middles, np.linspace(0, FP8_MAX, 10_001, dtype=np.float32)])

    np.testing.assert_array_equal(to_fp8(values).astype(np.float32), nearest_even(values, numbers))


def test_fp4_rounds_to_the_nearest_of_its_numbers_and_to_the_even_one_of_two() -> None:
    numbers = np.array(FP4_VALUES, dtype=np.float32)
    values = np.linspace(0, 1.3 * FP4_MAX, 100_001, dtype=np.float32)
    wanted = nearest_even(np.minimum(values, FP4_MAX), numbers)

    np.testing.assert_array_equal(to_fp4(values).astype(np.float32), wanted)
    np.testing.assert_array_equal(to_fp4(-values).astype(np.float32), -wanted)


def test_each_output_of_an_fp8_weight_fills_the_format() -> None:
    weight = normal(32, 6) * np.float32(10) ** np.arange(-3, 3, dtype=np.float32)

    quantized = quantize_fp8(weight)

    assert quantized.scale == pytest.approx(np.abs(weight).max(axis=0) / FP8_MAX)
    assert (np.abs(quantized.codes.astype(np.float32)).max(axis=0) == FP8_MAX).all()
    # Three bits behind the leading one: half a step is 1/16 of a number.
    is_normal = np.abs(weight) > np.abs(weight).max(axis=0) * 2**-6 / FP8_MAX * 2
    error = np.abs(quantized.values - weight)
    assert (error[is_normal] <= np.abs(weight)[is_normal] / 16 * 1.001).all()


def test_a_weight_of_zeros_stays_one_in_both_formats() -> None:
    weight = np.zeros((BLOCK_SIZE, 3), dtype=np.float32)

    assert not quantize_fp8(weight).values.any()
    assert not quantize_fp4(weight).values.any()


def test_blocks_of_an_fp4_weight_have_scales_in_fp8_that_the_global_one_makes_fit() -> None:
    weight = normal(4 * BLOCK_SIZE, 5)
    weight[:BLOCK_SIZE] *= 100

    quantized = quantize_fp4(weight)

    blocks = np.abs(weight.reshape(4, BLOCK_SIZE, 5)).max(axis=1)
    assert quantized.block_scale.dtype == ml_dtypes.float8_e4m3fn
    assert quantized.global_scale == pytest.approx(np.abs(weight).max() / FP4_MAX / FP8_MAX)
    assert quantized.block_scale.astype(np.float32).max() == FP8_MAX
    found = quantized.block_scale.astype(np.float32) * quantized.global_scale * FP4_MAX
    np.testing.assert_allclose(found, blocks, rtol=1 / 16)


def test_an_fp4_weight_is_what_its_definition_makes_of_every_block() -> None:
    weight = normal(2 * BLOCK_SIZE, 3)
    quantized = quantize_fp4(weight)
    numbers = np.array(FP4_VALUES, dtype=np.float32)

    for output in range(3):
        for block in range(2):
            rows = slice(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
            scale = np.float32(quantized.block_scale[block, output]) * np.float32(
                quantized.global_scale
            )
            scaled = np.abs(weight[rows, output]) / scale
            wanted = nearest_even(np.minimum(scaled, np.float32(FP4_MAX)), numbers) * scale
            found = quantized.values[rows, output]
            np.testing.assert_array_equal(found, np.sign(weight[rows, output]) * wanted)


def test_activations_in_fp8_lose_a_sixteenth_at_most_and_saturate_beyond_the_range() -> None:
    rows = normal(50, 16)
    scale = fp8_scale(float(np.abs(rows).max()))

    found = emulate_fp8(rows, scale)

    assert found.max() == pytest.approx(rows.max()) or found.min() == pytest.approx(rows.min())
    np.testing.assert_allclose(found, rows, rtol=1 / 16, atol=scale * 2**-10)
    np.testing.assert_allclose(
        emulate_fp8(rows * 10, scale),
        np.clip(rows * 10, -448 * scale, 448 * scale),
        rtol=1 / 16,
        atol=scale * 2**-10,
    )


def test_a_row_of_activations_in_fp4_is_a_weight_of_one_output_in_fp4() -> None:
    rows = normal(7, 3 * BLOCK_SIZE)
    amax = float(np.abs(rows).max())

    found = emulate_fp4(rows, fp4_global_scale(amax))

    for row, values in zip(rows, found, strict=True):
        # What has the largest number of all beside it is scaled by the same global scale.
        column = np.column_stack([row, np.full_like(row, amax)])
        np.testing.assert_array_equal(values, quantize_fp4(column).values[:, 0])


@given(st.integers(-20, 20))
def test_formats_have_no_unit(power: int) -> None:
    weight = normal(BLOCK_SIZE, 4)
    unit = np.float32(2.0**power)

    np.testing.assert_array_equal(
        quantize_fp8(weight * unit).values, quantize_fp8(weight).values * unit
    )
    np.testing.assert_array_equal(
        quantize_fp4(weight * unit).values, quantize_fp4(weight).values * unit
    )
