"""The interpreter itself: small networks made by TensorRT's own functions."""

import ctypes
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.tensorrt.interpreter import NetworkInterpreter
from tests.tensorrt.numbers import to_fp4, to_fp8

from beicli.tensorrt.api import Messages, collection_paused, make_logger

Array = NDArray[Any]
# Given the network and its input tensors, in order, returns the output.
Fill = Callable[[Any, list[Any]], Any]
RNG = np.random.default_rng(0)


def run(trt: ModuleType, fill: Fill, inputs: Mapping[str, Array]) -> Array:
    """Make a network of float32 inputs whose sizes are all dynamic, and interpret it."""
    with collection_paused():
        builder = trt.Builder(make_logger(trt, Messages()))
    network = builder.create_network(0)
    tensors = [
        network.add_input(name, trt.DataType.FLOAT, [-1] * value.ndim)
        for name, value in inputs.items()
    ]
    output = fill(network, tensors)
    output.name = "output"
    network.mark_output(output)
    return NetworkInterpreter(trt, network).run(inputs)["output"]


def test_a_layer_that_is_not_known_is_refused(rtx: ModuleType) -> None:
    def fill(network: Any, tensors: list[Any]) -> Any:
        return network.add_non_zero(tensors[0], rtx.DataType.INT64).get_output(0)

    with pytest.raises(AssertionError, match="unknown kind, NON_ZERO"):
        run(rtx, fill, {"x": np.ones((2, 3), dtype=np.float32)})


def test_a_mode_that_is_not_known_is_refused(rtx: ModuleType) -> None:
    def fill(network: Any, tensors: list[Any]) -> Any:
        layer = network.add_slice(tensors[0], [1], [4], [1])
        layer.mode = rtx.SampleMode.CLAMP
        return layer.get_output(0)

    with pytest.raises(AssertionError):
        run(rtx, fill, {"x": np.ones(3, dtype=np.float32)})


def test_a_function_that_is_not_known_is_refused(rtx: ModuleType) -> None:
    def fill(network: Any, tensors: list[Any]) -> Any:
        return network.add_unary(tensors[0], rtx.UnaryOperation.ATANH).get_output(0)

    with pytest.raises(KeyError, match="ATANH"):
        run(rtx, fill, {"x": np.zeros(3, dtype=np.float32)})


@pytest.mark.parametrize("start", [-1, 3])
def test_a_slice_beyond_the_end_is_refused(rtx: ModuleType, start: int) -> None:
    def fill(network: Any, tensors: list[Any]) -> Any:
        return network.add_slice(tensors[0], [start], [2], [1]).get_output(0)

    with pytest.raises(AssertionError):
        run(rtx, fill, {"x": np.ones(4, dtype=np.float32)})


@pytest.mark.parametrize(("kind", "diagonal"), [("UPPER_LEFT", 0), ("LOWER_RIGHT", 2)])
def test_causal_attention_shares_keys_among_heads(
    rtx: ModuleType, kind: str, diagonal: int
) -> None:
    query = RNG.normal(size=(2, 4, 3, 8)).astype(np.float32)
    key, value = (RNG.normal(size=(2, 2, 5, 8)).astype(np.float32) for _ in range(2))

    def fill(network: Any, tensors: list[Any]) -> Any:
        # The number of heads has to be known.
        wide = [
            network.add_slice(tensor, [0] * 4, each.shape, [1] * 4).get_output(0)
            for tensor, each in zip(tensors, (query, key, value), strict=True)
        ]
        causal = getattr(rtx.CausalMaskKind, kind)
        return network.add_attention_v2(
            *wide, rtx.AttentionNormalizationOp.SOFTMAX, causal
        ).get_output(0)

    found = run(rtx, fill, {"query": query, "key": key, "value": value})

    wanted = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(each) for each in (query, key, value)),
        attn_mask=torch.ones(3, 5, dtype=torch.bool).tril(diagonal),
        scale=1.0,
        enable_gqa=True,
    )
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


def test_constants_of_4_bit_are_read_two_from_a_byte(rtx: ModuleType) -> None:
    codes = RNG.choice([-6.0, -1.5, -0.0, 0.5, 1.0, 2.0, 4.0], (4, 32)).astype(np.float32)
    halves = codes.astype(ml_dtypes.float4_e2m1fn).view(np.uint8).reshape(-1, 2) & 15
    packed = np.ascontiguousarray(halves[:, 0] | halves[:, 1] << 4)
    scales = RNG.choice([0.5, 2.0], (4, 2)).astype(np.float32)

    def fill(network: Any, _tensors: list[Any]) -> Any:
        address = packed.ctypes.data_as(ctypes.c_void_p).value
        weights = rtx.Weights(rtx.DataType.FP4, address, codes.size)
        stored = network.add_constant(codes.shape, weights).get_output(0)
        of_blocks = network.add_constant(scales.shape, scales).get_output(0)
        return network.add_dequantize(stored, of_blocks, rtx.DataType.FLOAT).get_output(0)

    found = run(rtx, fill, {})

    np.testing.assert_array_equal(found, codes * np.repeat(scales, 16, axis=1))


def test_numbers_of_few_bits_are_rounded_to_even_and_limited() -> None:
    values = np.concatenate([np.linspace(-500, 500, 20_001), np.linspace(-7, 7, 20_001)])
    given = torch.from_numpy(values.astype(np.float32))

    for made, dtype, largest in (
        (to_fp8(given).float(), ml_dtypes.float8_e4m3fn, 448),
        (to_fp4(given), ml_dtypes.float4_e2m1fn, 6),
    ):
        wanted = np.clip(given.numpy(), -largest, largest).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(made.numpy(), wanted)
    assert to_fp4(torch.tensor([0.25, 0.75, 2.5, 5.0, 100.0])).tolist() == [0, 1, 2, 4, 6]
