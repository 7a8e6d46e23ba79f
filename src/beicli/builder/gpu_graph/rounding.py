"""Rounding to fewer bits as arithmetic in float32, so that any runtime computes it.

A cast to 16 bit and back would say the same, and compilers take such pairs out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from beicli.builder.gpu_graph.number_formats import BLOCK_SIZE, FP4_MAX, FP8_MAX

_FLOAT32_BITS = 24
# Large enough to make anything beyond the largest number of f16 infinite.
_TO_INFINITY = 1e37


@dataclass(frozen=True, slots=True)
class Format:
    """A format of numbers with a sign.

    significant_bits: of a normal number, the leading one included. smallest_normal: below it
        numbers lie evenly, as far apart as those just above. largest: beyond it a number becomes
        infinite, or the largest if the format saturates.
    """

    significant_bits: int
    smallest_normal: float
    largest: float
    saturates: bool


F16 = Format(11, 2.0**-14, 65504.0, saturates=False)
BF16 = Format(8, 2.0**-126, 3.3895e38, saturates=False)
FP8 = Format(4, 2.0**-6, FP8_MAX, saturates=True)
FP4 = Format(2, 1.0, FP4_MAX, saturates=True)
HALF_FORMATS: Mapping[ir.DataType, Format] = {
    ir.DataType.FLOAT16: F16,
    ir.DataType.BFLOAT16: BF16,
}


class Arithmetic:
    """Makes nodes that compute one float32 value after another, and gives them names."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[ir.Node] = []

    def add(
        self,
        op_type: str,
        *inputs: ir.Value,
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: int,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes=attributes)
        node.name = f"{self._prefix}/{len(self.nodes)}"
        value = node.outputs[0]
        value.name = node.name
        value.dtype = dtype
        self.nodes.append(node)
        return value

    def number(self, value: float) -> ir.Value:
        return self.constant(np.float32(value))

    def constant(self, values: object) -> ir.Value:
        array = np.asarray(values)
        dtype = ir.DataType.from_numpy(array.dtype)
        node = ir.node("Constant", [], attributes={"value": ir.tensor(array)})
        node.name = f"{self._prefix}/{len(self.nodes)}"
        node.outputs[0].name = node.name
        node.outputs[0].dtype = dtype
        self.nodes.append(node)
        return node.outputs[0]

    def round(self, value: ir.Value, to: Format) -> ir.Value:
        """Round to nearest, ties to even; what is too large saturates, or becomes infinite.

        Multiplying by 2^s + 1 and subtracting leaves what fits into 24 - s bits (Veltkamp, 1968).
        """
        # Beyond this the product would overflow.
        limit = to.largest if to.saturates else min(2 * to.largest, 2.0**104)
        value_or_limit = self.add("Clip", value, self.number(-limit), self.number(limit))
        factor = self.number(2.0 ** (_FLOAT32_BITS - to.significant_bits) + 1)
        scaled = self.add("Mul", value_or_limit, factor)
        rounded = self.add("Sub", scaled, self.add("Sub", scaled, value_or_limit))
        if to.saturates:
            return self._where_small(value_or_limit, rounded, to)
        # Numbers of f16 below the smallest normal one are left as they are: 6e-8 apart at most.
        return self._where_large(value, rounded, to)

    def _where_large(self, value: ir.Value, rounded: ir.Value, to: Format) -> ir.Value:
        """Take care of what is beyond the largest number, by far or after rounding."""
        if to is BF16:
            # Rounded up, what is within 2^-9 of the largest number of float32 overflows: so here.
            beyond = self.add("Add", value, self.add("Mul", value, self.number(2.0**-9)))
            limit = 2.0**103
        else:
            beyond = self.add("Mul", rounded, self.number(_TO_INFINITY))
            limit = to.largest
        size = self.add("Abs", rounded)
        is_beyond = self.add("Greater", size, self.number(limit), dtype=ir.DataType.BOOL)
        return self.add("Where", is_beyond, beyond, rounded)

    def _where_small(self, value: ir.Value, rounded: ir.Value, to: Format) -> ir.Value:
        step = to.smallest_normal * 2.0 ** (1 - to.significant_bits)
        even = self.add("Round", self.add("Div", value, self.number(step)))
        small = self.add("Mul", even, self.number(step))
        is_small = self.add(
            "Less",
            self.add("Abs", value),
            self.number(to.smallest_normal),
            dtype=ir.DataType.BOOL,
        )
        return self.add("Where", is_small, small, rounded)

    def through_fp4(self, value: ir.Value, global_scale: ir.Value) -> ir.Value:
        """Put activations into NVFP4 and back, blocks along the last dimension."""
        whole = self.add("Shape", value, dtype=ir.DataType.INT64)
        leading = self.add("Shape", value, dtype=ir.DataType.INT64, start=0, end=-1)
        tail = self.constant(np.array([-1, BLOCK_SIZE], dtype=np.int64))
        split = self.add("Concat", leading, tail, dtype=ir.DataType.INT64, axis=0)
        blocks = self.add("Reshape", value, split)
        axis = self.constant(np.array([-1], dtype=np.int64))
        amax = self.add("ReduceMax", self.add("Abs", blocks), axis, keepdims=1)
        wanted = self.add("Div", self.add("Div", amax, self.number(FP4_MAX)), global_scale)
        scale = self.add("Mul", self.round(wanted, FP8), global_scale)
        is_zero = self.add("Equal", scale, self.number(0), dtype=ir.DataType.BOOL)
        divisor = self.add("Where", is_zero, self.number(1), scale)
        codes = self.round(self.add("Div", blocks, divisor), FP4)
        return self.add("Reshape", self.add("Mul", codes, scale), whole)
