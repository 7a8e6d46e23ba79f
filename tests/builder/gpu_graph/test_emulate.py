from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from tests.builder.gpu_graph.graphs import (
    VOCABULARY,
    WIDTH,
    Array,
    compute,
    constant,
    cosines,
    encoder,
    model,
    node,
    tokens,
)

from beicli.builder.gpu_graph.emulate import emulate
from beicli.builder.gpu_graph.linears import find_linears
from beicli.builder.gpu_graph.quantize import LowPrecision, QuantizedLinear, quantize
from beicli.builder.gpu_graph.typed import HalfType, to_half

AMAX = 6.0
NUM_HEADS = 2
IDS = np.random.default_rng(7).integers(0, VOCABULARY, (3, 20)).astype(np.int32)
HALF_NUMPY = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
Through = Callable[[Array], Array]


def typed_encoder(half: HalfType, precision: LowPrecision | None) -> ir.Model:
    made = encoder()
    to_half(made, half)
    if precision is not None:
        quantize(
            made,
            {
                linear.name: QuantizedLinear(linear=linear, precision=precision, amax=AMAX)
                for linear in find_linears(made)
            },
        )
    return made


def weights() -> dict[str, Array]:
    found = {}
    for name, value in encoder().graph.initializers.items():
        assert value.const_value is not None
        found[name.removesuffix("_weight")] = value.const_value.numpy()
    return found


def layer(half: Through, activation: Through, weight: Through) -> Array:
    """Compute `encoder` with torch, in float32 between what each of the three leaves of numbers."""
    stored = weights()

    def product(values: Array, name: str) -> Array:
        # Both go back from their formats to 16 bit.
        return half(half(activation(values)) @ half(weight(half(stored[name]))))

    given = half(stored["table"][IDS])
    heads = [
        torch.from_numpy(product(given, name).reshape(*IDS.shape, NUM_HEADS, -1))
        for name in ("query", "key", "value")
    ]
    context = torch.nn.functional.scaled_dot_product_attention(
        *(each.transpose(1, 2) for each in heads)
    )
    attended = product(half(context.transpose(1, 2).flatten(2).numpy()), "attended")
    summed = torch.from_numpy(half(attended + given))
    normed = half(torch.nn.functional.layer_norm(summed, (WIDTH,)).numpy())
    up = torch.from_numpy(product(normed, "up"))
    down = product(half(torch.nn.functional.gelu(up).numpy()), "down")
    found: Array = half(down + normed).mean(axis=1) @ stored["head"]
    return found


def to_fp8(values: Array) -> Array:
    limited = torch.from_numpy(values).clamp(-448, 448)
    found: Array = limited.to(torch.float8_e4m3fn).to(torch.float32).numpy()
    return found


def activation_in_fp8(values: Array) -> Array:
    scale = np.float32(AMAX / 448)
    return to_fp8(values / scale) * scale


def weight_in_fp8(values: Array) -> Array:
    scale = np.abs(values).max(axis=0) / np.float32(448)
    found: Array = to_fp8(values / scale) * scale
    return found


def in_fp4(rows: Array, amax: float) -> Array:
    """Put rows into NVFP4, a block of 16 numbers after the other."""
    found = np.empty_like(rows)
    whole = np.float32(amax / (6 * 448))
    for place in np.ndindex(rows.shape[0], rows.shape[1] // 16):
        block = np.s_[place[0], 16 * place[1] : 16 * place[1] + 16]
        scale = to_fp8(np.atleast_1d(np.abs(rows[block]).max() / np.float32(6) / whole))[0] * whole
        scaled = np.clip(rows[block] / scale, -6, 6) if scale else np.zeros_like(rows[block])
        found[block] = scaled.astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scale
    return found


def activation_in_fp4(values: Array) -> Array:
    rows = values.reshape(-1, values.shape[-1])
    return in_fp4(rows, AMAX).reshape(values.shape)


def weight_in_fp4(values: Array) -> Array:
    return in_fp4(np.ascontiguousarray(values.T), float(np.abs(values).max())).T


def as_it_is(values: Array) -> Array:
    return values


THROUGH = {
    None: (as_it_is, as_it_is),
    "fp8": (activation_in_fp8, weight_in_fp8),
    "fp4": (activation_in_fp4, weight_in_fp4),
}


@pytest.mark.parametrize("precision", [None, "fp8", "fp4"])
@pytest.mark.parametrize("half", ["f16", "bf16"])
def test_an_emulation_computes_what_the_definitions_of_the_formats_say(
    half: HalfType, precision: LowPrecision | None, tmp_path: Path
) -> None:
    dtype = HALF_NUMPY[half]

    found = compute(emulate(typed_encoder(half, precision)), tmp_path, {"ids": IDS})

    def rounded(values: Array) -> Array:
        return values.astype(dtype).astype(np.float32)

    activation, weight = THROUGH[precision]
    wanted = layer(rounded, activation, weight)
    exact = layer(as_it_is, as_it_is, as_it_is)
    # A sum in another order may be rounded to the other side: that is little of what rounding does.
    difference, effect = np.abs(found - wanted).mean(), np.abs(found - exact).mean()
    assert difference < 0.25 * effect
    assert effect > 1e-5
    assert cosines(found, exact).min() > {None: 0.9999, "fp8": 0.998, "fp4": 0.97}[precision]


@pytest.mark.parametrize("precision", [None, "fp8", "fp4"])
def test_an_emulation_is_plain_onnx_in_float32(
    precision: LowPrecision | None, tmp_path: Path
) -> None:
    ir.save(emulate(typed_encoder("f16", precision)), tmp_path / "emulation.onnx")
    found = ir.load(tmp_path / "emulation.onnx")

    values = [output for each in found.graph for output in each.outputs]
    types = {value.dtype for value in (*values, *found.graph.initializers.values())}
    assert types <= {ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL}
    assert {each.domain for each in found.graph} == {""}
    assert set(found.opset_imports) == {""}
    assert not {each.op_type for each in found.graph} & {"QuantizeLinear", "DequantizeLinear"}


def test_a_graph_in_float32_stays_as_it_is(tmp_path: Path) -> None:
    wanted = compute(encoder(), tmp_path, {"ids": IDS})

    found = compute(emulate(encoder()), tmp_path, {"ids": IDS})

    np.testing.assert_array_equal(found, wanted)


def test_what_only_moves_numbers_is_not_rounded_again() -> None:
    given, turned = tokens("given", WIDTH, ir.DataType.FLOAT16), tokens("turned", WIDTH)
    turned.dtype = ir.DataType.FLOAT16
    wide = tokens("wide", WIDTH)
    made = model(
        [given],
        [
            node("Transpose", [given], turned, perm=[0, 1, 2]),
            node("Cast", [turned], wide, to=ir.DataType.FLOAT),
        ],
    )

    assert [each.op_type for each in emulate(made).graph] == ["Transpose", "Cast"]


def test_activations_beyond_f16_are_seen_as_infinite(tmp_path: Path) -> None:
    given, product, root = (tokens(name, WIDTH) for name in ("given", "product", "root"))
    weight = constant("weight", np.full((WIDTH, WIDTH), 100, dtype=np.float32))
    made = model(
        [given],
        [node("MatMul", [given, weight], product), node("Sqrt", [product], root)],
        weight,
    )
    to_half(made, "f16")

    given_values = np.linspace(0, 50, 3 * WIDTH, dtype=np.float32).reshape(1, 3, WIDTH)
    found = compute(emulate(made), tmp_path, {"given": given_values})

    assert np.isinf(found).any()
    assert np.isfinite(found).any()
