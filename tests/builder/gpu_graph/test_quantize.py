from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tests.builder.gpu_graph.graphs import HIDDEN, OF_ATTENTION, OF_MLP, WIDTH, Array, encoder

from beicli.builder.gpu_graph.linears import find_linears
from beicli.builder.gpu_graph.number_formats import (
    BLOCK_SIZE,
    fp4_global_scale,
    fp8_scale,
    quantize_fp4,
    quantize_fp8,
)
from beicli.builder.gpu_graph.quantize import LowPrecision, QuantizedLinear, quantize
from beicli.builder.gpu_graph.typed import to_half

AMAX = 3.0


def quantized(precision: LowPrecision, *names: str) -> ir.Model:
    """An encoder in bf16 some of whose products are quantised."""
    made = encoder()
    to_half(made, "bf16")
    quantize(
        made,
        {
            linear.name: QuantizedLinear(linear=linear, precision=precision, amax=AMAX)
            for linear in find_linears(made)
            if linear.name in names
        },
    )
    return made


def stored(made: ir.Model, name: str) -> Array:
    tensor = made.graph.initializers[name].const_value
    assert tensor is not None
    values: Array = tensor.numpy()
    return values


def weight(name: str) -> Array:
    """The weight of a product of `encoder` as it is in bf16."""
    values = stored(encoder(), f"{name}_weight")
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def operators(made: ir.Model) -> Counter[str]:
    return Counter(each.op_type for each in made.graph)


def test_products_of_one_activation_share_what_is_made_of_it() -> None:
    found = operators(quantized("fp8", *OF_ATTENTION[:3]))

    assert found["QuantizeLinear"] == 1
    # One for the activation, one for each weight.
    assert found["DequantizeLinear"] == 1 + 3


def test_products_that_are_not_named_stay_as_they_are() -> None:
    made = quantized("fp8", *OF_MLP)
    nodes = {each.name: each for each in made.graph}

    for name in OF_ATTENTION:
        kept = nodes[name].inputs[1]
        assert kept is not None
        assert kept.name == f"{name}_weight/bfloat16"


def test_a_weight_in_fp8_has_a_scale_for_each_output_and_is_stored_once() -> None:
    made = quantized("fp8", "up")
    wanted = quantize_fp8(weight("up"))

    codes = stored(made, "up_weight/bfloat16/fp8/codes")
    assert codes.dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(codes.view(np.uint8), wanted.codes.view(np.uint8))
    np.testing.assert_array_equal(stored(made, "up_weight/bfloat16/fp8/scale"), wanted.scale)
    assert "up_weight/bfloat16" not in made.graph.initializers


def test_an_activation_in_fp8_is_scaled_by_what_was_observed() -> None:
    made = quantized("fp8", "up")
    (scaled,) = (each for each in made.graph if each.op_type == "QuantizeLinear")

    scale = scaled.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    assert scale.const_value.numpy() == np.float32(fp8_scale(AMAX))
    assert scaled.outputs[0].dtype == ir.DataType.FLOAT8E4M3FN


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_products_of_one_activation_keep_scales_of_their_own(precision: LowPrecision) -> None:
    made = encoder()
    to_half(made, "bf16")
    amax = {"query": 3.0, "key": 5.0, "value": 3.0}

    quantize(
        made,
        {
            linear.name: QuantizedLinear(linear=linear, precision=precision, amax=amax[linear.name])
            for linear in find_linears(made)
            if linear.name in amax
        },
    )

    names = [output.name for each in made.graph for output in each.outputs]
    assert len(names) == len(set(names))
    of = {"fp8": fp8_scale, "fp4": fp4_global_scale}[precision]
    quantizers = {"QuantizeLinear", "TRT_FP4DynamicQuantize"}
    scales = [each.inputs[1] for each in made.graph if each.op_type in quantizers]
    found = {float(stored(made, each.name)) for each in scales if each is not None and each.name}
    assert len(scales) == len(found)
    assert found == {float(np.float32(of(3.0))), float(np.float32(of(5.0)))}


def test_a_weight_in_fp4_is_stored_by_its_outputs_in_blocks_of_inputs() -> None:
    made = quantized("fp4", "up")
    wanted = quantize_fp4(weight("up"))

    codes = stored(made, "up_weight/bfloat16/fp4/codes").astype(np.float32)
    scales = stored(made, "up_weight/bfloat16/fp4/scales")
    np.testing.assert_array_equal(codes.T, wanted.codes.astype(np.float32))
    assert scales.shape == (codes.shape[0], WIDTH // BLOCK_SIZE)
    assert scales.dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(scales.T, wanted.block_scale)


def test_two_codes_of_fp4_share_a_byte_the_first_in_its_lower_half(tmp_path: Path) -> None:
    made = quantized("fp4", "up")
    codes = stored(made, "up_weight/bfloat16/fp4/codes").reshape(-1).view(np.uint8)
    ir.save(made, tmp_path / "model.onnx")

    graph = onnx.load(tmp_path / "model.onnx").graph
    (written,) = (each for each in graph.initializer if each.name.endswith("/fp4/codes"))

    raw = np.frombuffer(written.raw_data, dtype=np.uint8)
    assert raw.size == codes.size // 2
    np.testing.assert_array_equal(raw & 0xF, codes[::2] & 0xF)
    np.testing.assert_array_equal(raw >> 4, codes[1::2] & 0xF)


def test_activations_in_fp4_are_scaled_by_tensorrt_block_by_block() -> None:
    made = quantized("fp4", *OF_MLP)
    found = [each for each in made.graph if each.op_type == "TRT_FP4DynamicQuantize"]

    assert len(found) == len(OF_MLP)
    for each in found:
        assert each.domain == "trt"
        assert each.attributes.get_int("block_size") == BLOCK_SIZE
        assert [output.dtype for output in each.outputs] == [
            ir.DataType.FLOAT4E2M1,
            ir.DataType.FLOAT8E4M3FN,
        ]
    assert made.opset_imports["trt"] == 1


def test_activations_in_fp4_state_how_many_features_they_have() -> None:
    made = quantized("fp4", "down")
    (scaled,) = (each for each in made.graph if each.op_type == "TRT_FP4DynamicQuantize")

    sized = scaled.inputs[0]
    assert sized is not None
    reshape = sized.producer()
    assert reshape is not None
    assert reshape.op_type == "Reshape"
    assert stored(made, "gelu/fp4/shape").tolist() == [0, 0, HIDDEN]


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_a_weight_that_two_products_share_is_quantised_once(precision: LowPrecision) -> None:
    made = encoder()
    shared = made.graph.initializers["query_weight"]
    nodes = {each.name: each for each in made.graph}
    for name in ("key", "attended"):
        nodes[name].replace_input_with(1, shared)
    to_half(made, "f16")

    quantize(
        made,
        {
            linear.name: QuantizedLinear(linear=linear, precision=precision, amax=AMAX)
            for linear in find_linears(made)
        },
    )

    names = [output.name for each in made.graph for output in each.outputs]
    assert len(names) == len(set(names))
    assert nodes["query"].inputs[1] is nodes["attended"].inputs[1]


def test_a_weight_that_a_checkpoint_has_quantised_is_taken_as_it_is() -> None:
    made = encoder()
    to_half(made, "bf16")
    (up,) = (linear for linear in find_linears(made) if linear.name == "up")
    given = quantize_fp8(np.full((up.in_features, up.out_features), 0.5, dtype=np.float32))

    quantize(made, {"up": QuantizedLinear(linear=up, precision="fp8", amax=AMAX, weight=given)})

    codes = stored(made, "up_weight/bfloat16/fp8/codes")
    np.testing.assert_array_equal(codes.view(np.uint8), given.codes.view(np.uint8))
