"""Puts products of a typed graph into FP8 or NVFP4, as TensorRT wants it said: explicitly.

Weights are stored in the format, with their scales; activations are put into it before the product.
Both are turned back in the graph, and the compiler multiplies in the format because it sees both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir

from beicli.builder.gpu_graph.constants import add_constant
from beicli.builder.gpu_graph.linears import RANK_OF_TOKENS, Linear
from beicli.builder.gpu_graph.number_formats import (
    BLOCK_SIZE,
    Float32,
    Fp4Weight,
    Fp8Weight,
    fp4_global_scale,
    fp8_scale,
    quantize_fp4,
    quantize_fp8,
)

LowPrecision = Literal["fp8", "fp4"]
# TensorRT's own operators; no runtime for CPUs has them.
TENSORRT_DOMAIN = "trt"
DYNAMIC_QUANTIZE = "TRT_FP4DynamicQuantize"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedLinear:
    """How one product is quantised.

    amax: the largest activation, by which those of all texts are scaled.
    weight: as a checkpoint that was quantised already has it; None quantises the graph's own.
    """

    linear: Linear
    precision: LowPrecision
    amax: float
    weight: Fp8Weight | Fp4Weight | None = None


def quantize(model: ir.Model, linears: Mapping[str, QuantizedLinear]) -> None:
    """Rewrite a typed graph in place; linears: by the name of the product."""
    _Quantizer(model.graph).run(linears)
    if any(each.precision == "fp4" for each in linears.values()):
        model.opset_imports[TENSORRT_DOMAIN] = 1


class _Quantizer:
    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        # Products of the same activation share what is made of it; so do those of the same weight.
        self._activations: dict[tuple[ir.Value, LowPrecision, float], ir.Value] = {}
        self._weights: dict[tuple[ir.Value, LowPrecision], ir.Value] = {}

    def run(self, linears: Mapping[str, QuantizedLinear]) -> None:
        for node in list(self._graph):
            found = linears.get(node.name or "")
            if found is None:
                continue
            activation, weight = node.inputs
            assert activation is not None, "a product has two inputs"
            assert weight is not None, "a product has two inputs"
            node.replace_input_with(0, self._through(activation, found, node))
            node.replace_input_with(1, self._stored(weight, found, node))
            if not weight.uses() and weight.name is not None:
                del self._graph.initializers[weight.name]

    def _through(self, activation: ir.Value, found: QuantizedLinear, user: ir.Node) -> ir.Value:
        key = (activation, found.precision, found.amax)
        if key not in self._activations:
            through = _through_fp8 if found.precision == "fp8" else _through_fp4
            # A checkpoint may have several scales for what several products take: each its names.
            others = [made for made in self._activations if made[:2] == key[:2]]
            number = f"/{len(others)}" if others else ""
            prefix = f"{activation.name}{number}/{found.precision}"
            insert = _Inserter(self._graph, user, prefix)
            self._activations[key] = through(insert, activation, found)
        return self._activations[key]

    def _stored(self, weight: ir.Value, found: QuantizedLinear, user: ir.Node) -> ir.Value:
        key = (weight, found.precision)
        if key not in self._weights:
            store = _stored_fp8 if found.precision == "fp8" else _stored_fp4
            insert = _Inserter(self._graph, user, f"{weight.name}/{found.precision}")
            self._weights[key] = store(insert, weight, found)
        return self._weights[key]


class _Inserter:
    """Puts nodes before one node, and constants into the graph, under one prefix."""

    def __init__(self, graph: ir.Graph, before: ir.Node, prefix: str) -> None:
        self._graph = graph
        self._before = before
        self._prefix = prefix

    def node(
        self,
        name: str,
        op_type: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        **attributes: int,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes=attributes)
        return self._insert(node, (name,), (dtype,))[0]

    def dynamic_quantize(self, value: ir.Value, scale: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the codes in FP4 and the scales of their blocks in FP8."""
        node = ir.node(
            DYNAMIC_QUANTIZE,
            [value, scale],
            attributes={
                "axis": -1,
                "block_size": BLOCK_SIZE,
                "scale_type": int(ir.DataType.FLOAT8E4M3FN),
            },
            domain=TENSORRT_DOMAIN,
            num_outputs=2,
        )
        types = (ir.DataType.FLOAT4E2M1, ir.DataType.FLOAT8E4M3FN)
        codes, scales = self._insert(node, ("codes", "scales"), types)
        return codes, scales

    def constant(self, name: str, values: object) -> ir.Value:
        return add_constant(
            self._graph, ir.tensor(np.asarray(values), name=f"{self._prefix}/{name}")
        )

    def _insert(
        self, node: ir.Node, names: Sequence[str], dtypes: Sequence[ir.DataType]
    ) -> Sequence[ir.Value]:
        node.name = f"{self._prefix}/{names[0]}"
        for output, name, dtype in zip(node.outputs, names, dtypes, strict=True):
            output.name = f"{self._prefix}/{name}"
            output.dtype = dtype
        self._graph.insert_before(self._before, node)
        return node.outputs


def _through_fp8(insert: _Inserter, value: ir.Value, found: QuantizedLinear) -> ir.Value:
    half = _type_of(value)
    scale = insert.constant("scale", np.float32(fp8_scale(found.amax)))
    zero = insert.constant("zero", np.zeros((), dtype=ml_dtypes.float8_e4m3fn))
    codes = insert.node("codes", "QuantizeLinear", [value, scale, zero], ir.DataType.FLOAT8E4M3FN)
    return insert.node(
        "back", "DequantizeLinear", [codes, scale, zero], half, output_dtype=int(half)
    )


def _through_fp4(insert: _Inserter, value: ir.Value, found: QuantizedLinear) -> ir.Value:
    half = _type_of(value)
    scale = insert.constant("scale", np.float32(fp4_global_scale(found.amax)))
    # It says how many features there are, which the parser does not always find out by itself.
    num_others = RANK_OF_TOKENS - 1 if value.shape is None else len(value.shape) - 1
    sizes = [0] * num_others + [found.linear.in_features]
    shape = insert.constant("shape", np.array(sizes, dtype=np.int64))
    value = insert.node("sized", "Reshape", [value, shape], half)
    codes, block_scales = insert.dynamic_quantize(value, scale)
    return _from_fp4(insert, codes, block_scales, scale, half)


def _stored_fp8(insert: _Inserter, weight: ir.Value, found: QuantizedLinear) -> ir.Value:
    half = _type_of(weight)
    stored = weight.const_value
    assert stored is not None, "a weight is a constant"
    quantized = found.weight
    if quantized is None:
        quantized = quantize_fp8(_as_float32(stored))
    assert isinstance(quantized, Fp8Weight), "the checkpoint is in the format that was planned"
    codes = insert.constant("codes", quantized.codes)
    scale = insert.constant("scale", quantized.scale)
    return insert.node(
        "back", "DequantizeLinear", [codes, scale], half, axis=1, output_dtype=int(half)
    )


def _stored_fp4(insert: _Inserter, weight: ir.Value, found: QuantizedLinear) -> ir.Value:
    half = _type_of(weight)
    stored = weight.const_value
    assert stored is not None, "a weight is a constant"
    quantized = found.weight
    if quantized is None:
        quantized = quantize_fp4(_as_float32(stored))
    assert isinstance(quantized, Fp4Weight), "the checkpoint is in the format that was planned"
    # Blocks along the last dimension, as the tools that TensorRT is tested with lay them out.
    codes = insert.constant("codes", np.ascontiguousarray(quantized.codes.T))
    block_scales = insert.constant("scales", np.ascontiguousarray(quantized.block_scale.T))
    scale = insert.constant("scale", np.float32(quantized.global_scale))
    back = _from_fp4(insert, codes, block_scales, scale, half)
    # Without `perm` it turns the order of the dimensions around.
    return insert.node("transposed", "Transpose", [back], half)


def _from_fp4(
    insert: _Inserter,
    codes: ir.Value,
    block_scales: ir.Value,
    scale: ir.Value,
    half: ir.DataType,
) -> ir.Value:
    """Turn FP4 back: block scales first, in float32, since the compiler takes no others."""
    wide = insert.node("wide_scales", "DequantizeLinear", [block_scales, scale], ir.DataType.FLOAT)
    back = insert.node(
        "back",
        "DequantizeLinear",
        [codes, wide],
        ir.DataType.FLOAT,
        axis=-1,
        block_size=BLOCK_SIZE,
    )
    return insert.node("half", "Cast", [back], half, to=int(half))


def _type_of(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None, "types are known since the graph was typed"
    return value.dtype


def _as_float32(stored: ir.TensorProtocol) -> Float32:
    values: Float32 = stored.numpy().astype(np.float32)
    return values
