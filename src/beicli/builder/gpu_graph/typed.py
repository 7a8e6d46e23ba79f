"""From a graph in float32 to one in 16 bit with float32 where range or precision is needed.

TensorRT computes every operator in the types of the graph, so the types are chosen here:
- 16 bit: products, attention, normalisation (which adds up in float32 whatever its ends are), and
  with them what passes from one layer to the next.
- float32: sums over tokens, exponentials, square roots and angles, and all that is made of them:
  pooling, and every product after it, which are small.
- What only moves numbers, and what adds or multiplies them one by one, takes the wider of its
  inputs; a constant takes the type of the others.
"""

from collections.abc import Mapping
from typing import Literal

import onnx_ir as ir

from beicli.builder.gpu_graph.constants import Converter
from beicli.builder.gpu_graph.linears import RANK_OF_TOKENS

HalfType = Literal["f16", "bf16"]

HALF_TYPES: Mapping[HalfType, ir.DataType] = {
    "f16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}
# In 16 bit, unless what they are given is already pooled.
_PRODUCTS = {"MatMul", "Gemm", "Conv"}
_IN_HALF = {"Attention", "RotaryEmbedding", "LayerNormalization", "RMSNormalization"}
_IN_FLOAT = {
    "Softmax",
    "LogSoftmax",
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceL2",
    "ReduceSumSquare",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "Cos",
    "Sin",
    "CumSum",
    "Range",
    "Softplus",
}
# The place of what `Attention` adds to scores, if that is a number.
_MASK = 3
_MASK_LIMIT = 32768.0
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def to_half(model: ir.Model, dtype: HalfType) -> None:
    """Rewrite a float32 graph in place; its inputs and outputs keep their types."""
    _Typer(model, HALF_TYPES[dtype]).run()


class _Typer:
    """Goes through a graph once, in the order of computation."""

    def __init__(self, model: ir.Model, half: ir.DataType) -> None:
        self._graph = model.graph
        self._half = half
        self._converter = Converter(model.graph)

    def run(self) -> None:
        ranks = {value: len(value.shape) for value in _values(self._graph) if value.shape}
        for node in list(self._graph):
            wanted = self._wanted(node, ranks)
            if wanted is not None:
                self._type(node, wanted)
        for number, output in enumerate(list(self._graph.outputs)):
            if output.dtype == self._half:
                self._graph.outputs[number] = self._converter.as_float_output(output)
        self._converter.remove_unused()

    def _type(self, node: ir.Node, wanted: ir.DataType) -> None:
        if node.op_type == "Attention" and wanted == self._half:
            self._limit_mask(node)
        for number, value in enumerate(node.inputs):
            if value is not None and value.dtype in _FLOATS:
                node.replace_input_with(number, self._converter.typed(value, wanted, node))
        for output in node.outputs:
            if output.dtype in _FLOATS or output.dtype is None:
                output.dtype = wanted

    def _limit_mask(self, node: ir.Node) -> None:
        """Keep a mask that is added to scores within 16 bit: see `constants` for what it would do.

        What is hidden is so after e^-32768 as well.
        """
        mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
        if mask is None or mask.dtype != ir.DataType.FLOAT or self._converter.is_constant(mask):
            return
        limits = [self._converter.number(limit) for limit in (-_MASK_LIMIT, _MASK_LIMIT)]
        clip = ir.node("Clip", [mask, *limits])
        clip.outputs[0].name = f"{mask.name}/limited/{node.name}"
        clip.outputs[0].dtype = ir.DataType.FLOAT
        clip.outputs[0].shape = mask.shape
        self._graph.insert_before(node, clip)
        node.replace_input_with(_MASK, clip.outputs[0])

    def _wanted(self, node: ir.Node, ranks: Mapping[ir.Value, int]) -> ir.DataType | None:
        """Return what a node's numbers are to be; None if it has none, or makes them itself."""
        floats = [value for value in node.inputs if value is not None and value.dtype in _FLOATS]
        if not floats or node.op_type == "Cast":
            return None
        if node.op_type in _PRODUCTS:
            is_pooled = ranks.get(floats[0], RANK_OF_TOKENS) < RANK_OF_TOKENS
            return ir.DataType.FLOAT if is_pooled else self._half
        if node.op_type in _IN_FLOAT:
            return ir.DataType.FLOAT
        computed = [value for value in floats if not self._converter.is_constant(value)]
        if node.op_type in _IN_HALF and self._half in {value.dtype for value in computed}:
            return self._half
        if not computed:
            # Rows of a table: those of embeddings.
            is_table = node.op_type == "Gather" and len(floats[0].shape or ()) > 1
            return self._half if is_table else ir.DataType.FLOAT
        is_half = all(value.dtype == self._half for value in computed)
        return self._half if is_half else ir.DataType.FLOAT


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [output for node in graph for output in node.outputs] + list(graph.inputs)
