"""What a GPU computes of a typed graph, as a graph in float32 that any runtime computes.

It goes node by node, so that what the gate judges is the graph that TensorRT gets:
- Stored numbers, whatever their format, become the float32 numbers that they stand for.
- What is computed in 16 bit is computed in float32, as GPUs add up, and then rounded to 16 bit.
- What goes through FP8 or FP4 is rounded to that format, with the graph's own scales.
How attention rounds within itself is not part of a graph, and not emulated.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from beicli.builder.gpu_graph.constants import add_constant
from beicli.builder.gpu_graph.number_formats import BLOCK_SIZE
from beicli.builder.gpu_graph.quantize import DYNAMIC_QUANTIZE
from beicli.builder.gpu_graph.rounding import FP8, HALF_FORMATS, Arithmetic

# These choose among the numbers they are given, or change their sign: nothing is rounded.
_EXACT = frozenset(
    {"Reshape", "Transpose", "Gather", "GatherElements", "GatherND", "Concat", "Slice", "Split"}
    | {"Squeeze", "Unsqueeze", "Expand", "Flatten", "Identity", "Tile", "Pad", "DepthToSpace"}
    | {"Where", "Max", "Min", "Relu", "Neg", "Abs", "ScatterElements", "ScatterND", "Trilu"}
)
# What is computed of constants alone is computed here, when the graph is written.
_FOLDED = frozenset({"DequantizeLinear", "Cast", "Transpose"})
_NARROW = frozenset({*HALF_FORMATS, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1})

Array = NDArray[np.generic]


def emulate(model: ir.Model) -> ir.Model:
    """Return a float32 graph with the numerics of a typed one, which is used up by it.

    Weights stay where they are until the graph is written, and are then widened one at a time.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type in _FOLDED and all(_is_constant(graph, each) for each in node.inputs):
            _fold(graph, node)
    for constant in list(graph.initializers.values()):
        if constant.dtype in _NARROW:
            _widen(constant)
    for node in list(graph):
        _emulate_node(graph, node)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    return model


def _is_constant(graph: ir.Graph, value: ir.Value | None) -> bool:
    return value is None or value.name in graph.initializers


def _emulate_node(graph: ir.Graph, node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes.get_int("to") in HALF_FORMATS:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
    for output in node.outputs:
        if output.dtype is None:
            continue
        arithmetic = Arithmetic(f"{output.name}/emulated")
        emulation = _EMULATIONS.get(node.op_type)
        made = output if emulation is None else emulation(arithmetic, node)
        half = HALF_FORMATS.get(output.dtype)
        if half is not None and node.op_type not in _EXACT:
            made = arithmetic.round(made, half)
        if output.dtype in _NARROW:
            output.dtype = ir.DataType.FLOAT
        if made is not output:
            _replace(graph, output, arithmetic, made)


def _quantize_linear(arithmetic: Arithmetic, node: ir.Node) -> ir.Value:
    """Make the codes of FP8, as numbers in float32; one scale for all of them."""
    assert node.outputs[0].dtype == ir.DataType.FLOAT8E4M3FN, "nothing else is quantised so"
    value, scale = _first_two(node)
    return arithmetic.round(arithmetic.add("Div", value, scale), FP8)


def _dequantize_linear(arithmetic: Arithmetic, node: ir.Node) -> ir.Value:
    """Multiply codes by their scale; those of FP4 have blocks, and are made and multiplied here."""
    codes, scale = _first_two(node)
    producer = codes.producer()
    if producer is None or producer.op_type != DYNAMIC_QUANTIZE:
        assert scale.shape is not None, "a constant has a shape"
        assert len(scale.shape) == 0, "activations have one scale"
        return arithmetic.add("Mul", codes, scale)
    if codes is producer.outputs[1]:
        # The scales of the blocks; nothing but the codes uses them.
        return node.outputs[0]
    assert producer.attributes.get_int("axis") == -1, "blocks are of features"
    assert producer.attributes.get_int("block_size") == BLOCK_SIZE, "NVFP4 has no other"
    return arithmetic.through_fp4(*_first_two(producer))


_EMULATIONS: Mapping[str, Callable[[Arithmetic, ir.Node], ir.Value]] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
}


def _first_two(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    value, scale = node.inputs[:2]
    assert value is not None, "it is not optional"
    assert scale is not None, "it is not optional"
    return value, scale


def _replace(graph: ir.Graph, value: ir.Value, arithmetic: Arithmetic, made: ir.Value) -> None:
    """Put `arithmetic` behind whatever makes `value`, and `made` of it in the place of `value`."""
    producer = value.producer()
    assert producer is not None, "constants are not computed"
    assert not value.is_graph_output(), "a graph gives out float32"
    made.shape = value.shape
    within = set(arithmetic.nodes)
    for use in tuple(value.uses()):
        if use.node not in within:
            use.node.replace_input_with(use.idx, made)
    graph.insert_after(producer, arithmetic.nodes)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    """Put a constant in place of a node of constants; it is computed when it is written."""
    output = node.outputs[0]
    name, dtype = output.name, output.dtype
    assert name is not None, "every value of a graph has a name"
    assert dtype is not None, "every value of a typed graph has a type"
    stored = [_stored(each) for each in node.inputs if each is not None]
    tensor = ir.LazyTensor(
        functools.partial(_folded, node, stored, dtype),
        dtype=dtype,
        shape=_folded_shape(node, stored[0]),
        name=name,
    )
    output.name = f"{name}/unfolded"
    made = add_constant(graph, tensor)
    ir.convenience.replace_all_uses_with(output, made, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _folded(
    node: ir.Node, stored: Sequence[ir.TensorProtocol], dtype: ir.DataType
) -> ir.TensorProtocol:
    values = _FOLDS[node.op_type](node, stored)
    return ir.tensor(values.astype(dtype.numpy(), copy=False), dtype=dtype)


def _stored(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None, "a constant has a value"
    return value.const_value


def _folded_shape(node: ir.Node, first: ir.TensorProtocol) -> ir.Shape:
    shape = first.shape.numpy()
    if node.op_type != "Transpose":
        return ir.Shape(shape)
    return ir.Shape([shape[axis] for axis in _axes(node, len(shape))])


def _axes(node: ir.Node, rank: int) -> Sequence[int]:
    return node.attributes.get_ints("perm", range(rank)[::-1])


def _fold_cast(_node: ir.Node, stored: Sequence[ir.TensorProtocol]) -> Array:
    values: Array = stored[0].numpy()
    return values


def _fold_transpose(node: ir.Node, stored: Sequence[ir.TensorProtocol]) -> Array:
    values = stored[0].numpy()
    return np.ascontiguousarray(values.transpose(_axes(node, values.ndim)))


def _fold_dequantize(node: ir.Node, stored: Sequence[ir.TensorProtocol]) -> Array:
    codes, scale = (each.numpy().astype(np.float32) for each in stored[:2])
    axis = node.attributes.get_int("axis", 1)
    block_size = node.attributes.get_int("block_size", 0)
    if block_size:
        scale = np.repeat(scale, block_size, axis=axis)
    elif scale.ndim == 1 and codes.ndim > 1:
        others = [number for number in range(codes.ndim) if number != axis % codes.ndim]
        scale = np.expand_dims(scale, tuple(others))
    # In place: weights may be large.
    codes *= scale
    values: Array = codes
    return values


_FOLDS: Mapping[str, Callable[[ir.Node, Sequence[ir.TensorProtocol]], Array]] = {
    "Cast": _fold_cast,
    "Transpose": _fold_transpose,
    "DequantizeLinear": _fold_dequantize,
}


def _widen(constant: ir.Value) -> None:
    """Store a constant as the float32 numbers that it stands for."""
    stored = _stored(constant)
    constant.const_value = ir.LazyTensor(
        functools.partial(_widened, stored),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(stored.shape.numpy()),
        name=constant.name,
    )
    constant.dtype = ir.DataType.FLOAT


def _widened(stored: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(stored.numpy().astype(np.float32))
