from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tests.builder.gpu_graph.graphs import Array, compute, model, tokens

from beicli.builder.gpu_graph.number_formats import (
    FP4_MAX,
    FP8_MAX,
    emulate_fp4,
    fp4_global_scale,
)
from beicli.builder.gpu_graph.rounding import BF16, F16, FP4, FP8, Arithmetic, Format

FEATURES = 32
Make = Callable[[Arithmetic, ir.Value], ir.Value]


def computed(make: Make, values: Array, directory: Path) -> Array:
    """Return what OpenVINO computes of `values`, a multiple of `FEATURES` numbers."""
    given = tokens("given", FEATURES)
    arithmetic = Arithmetic("rounding")
    made = arithmetic.add("Identity", make(arithmetic, given))
    made.shape = given.shape
    whole = values.reshape(1, -1, FEATURES)
    graph = model([given], arithmetic.nodes)
    return compute(graph, directory, {"given": whole}).reshape(values.shape)


def numbers_of_every_size() -> Array:
    """Return numbers of all sizes and signs, those between two of a format among them."""
    generator = np.random.default_rng(0)
    sizes = np.exp2(generator.uniform(-13, 15, 40_000))
    some = generator.choice([-1.0, 1.0], 40_000) * sizes
    # All that has 14 bits: half of what a shorter format has are ties.
    ties = np.arange(1, 2**14) / 64
    found = np.concatenate([some, ties, -ties, np.zeros(2)]).astype(np.float32)
    return found[: len(found) // FEATURES * FEATURES]


@pytest.mark.parametrize(("to", "dtype"), [(F16, np.float16), (BF16, ml_dtypes.bfloat16)])
def test_16_bit_is_rounded_bit_by_bit(to: Format, dtype: type, tmp_path: Path) -> None:
    values = numbers_of_every_size()

    found = computed(lambda arithmetic, value: arithmetic.round(value, to), values, tmp_path)

    np.testing.assert_array_equal(found, values.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("to", "dtype", "largest"),
    [(FP8, ml_dtypes.float8_e4m3fn, FP8_MAX), (FP4, ml_dtypes.float4_e2m1fn, FP4_MAX)],
)
def test_8_and_4_bit_are_rounded_bit_by_bit(
    to: Format, dtype: type, largest: float, tmp_path: Path
) -> None:
    near = np.linspace(-1.1 * largest, 1.1 * largest, 32_000, dtype=np.float32)
    values = np.concatenate([numbers_of_every_size(), near, near / 1024])

    found = computed(lambda arithmetic, value: arithmetic.round(value, to), values, tmp_path)

    limited = np.clip(values, -largest, largest)
    np.testing.assert_array_equal(found, limited.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("to", "dtype", "edges"),
    [
        # Halfway to the number that would come next, and the last one below that.
        (F16, np.float16, (65520.0, 65519.996, 65504.0, 1e6, 3.4e38)),
        (BF16, ml_dtypes.bfloat16, (3.4e38, 3.3962e38, np.finfo(np.float32).max)),
    ],
)
def test_what_16_bit_cannot_hold_becomes_infinite(
    to: Format, dtype: type, edges: tuple[float, ...], tmp_path: Path
) -> None:
    values = np.zeros(FEATURES, dtype=np.float32)
    values[: 2 * len(edges)] = [*edges, *(-edge for edge in edges)]

    found = computed(lambda arithmetic, value: arithmetic.round(value, to), values, tmp_path)

    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, values.astype(dtype).astype(np.float32))
    assert np.isinf(found).any()


def test_large_numbers_of_bf16_stay_finite_and_close(tmp_path: Path) -> None:
    values = np.full(FEATURES, 3.38e38, dtype=np.float32)
    values[::2] = 2.0**104

    found = computed(lambda arithmetic, value: arithmetic.round(value, BF16), values, tmp_path)

    np.testing.assert_allclose(found, values, rtol=2**-8)


def test_activations_go_through_fp4_as_they_do_in_numpy(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(50, FEATURES)).astype(np.float32)
    rows[3] *= 1e-6
    rows[4] = 0
    scale = fp4_global_scale(float(np.abs(rows).max()))

    found = computed(
        lambda arithmetic, value: arithmetic.through_fp4(value, arithmetic.number(scale)),
        rows,
        tmp_path,
    )

    np.testing.assert_array_equal(found, emulate_fp4(rows, scale))
    assert not found[4].any()
