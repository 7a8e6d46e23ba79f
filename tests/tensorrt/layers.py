"""What each layer of TensorRT computes, by the description of its class.

A function is given the layer, with its class set, and its inputs, and returns its outputs.
Products and sums of 16 bit numbers are computed in float32 and rounded, as GPUs do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tests.tensorrt.arithmetic import (
    activation,
    cast,
    cumulative,
    dequantize,
    dynamic_quantize,
    elementwise,
    matrix_multiply,
    normalization,
    quantize,
    reduce,
    select,
    softmax,
    topk,
    unary,
)
from tests.tensorrt.attention import attention_input, attention_output, rotary_embedding
from tests.tensorrt.movement import (
    concatenation,
    fill,
    gather,
    identity,
    shape,
    shuffle,
    slice_,
    squeeze,
    unsqueeze,
)

Arguments = Sequence[torch.Tensor | None]
Compute = Callable[[Any, Arguments], tuple[torch.Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Kind:
    """class_name: of the layer. attributes: those it has itself; all are known to `compute`."""

    class_name: str
    compute: Compute
    attributes: frozenset[str]


def _kind(class_name: str, compute: Compute, *attributes: str) -> Kind:
    return Kind(class_name, compute, frozenset(attributes))


def _constant(_layer: Any, _inputs: Arguments) -> tuple[torch.Tensor, ...]:
    raise AssertionError("constants are read, not computed")


# By name of `LayerType`.
KINDS: dict[str, Kind] = {
    # An activation's kind is its `type`, which every layer has.
    "ACTIVATION": _kind("IActivationLayer", activation, "alpha", "beta"),
    "ATTENTION_INPUT": _kind("IAttentionInputLayer", attention_input, "attention"),
    "ATTENTION_OUTPUT": _kind("IAttentionOutputLayer", attention_output, "attention"),
    "CAST": _kind("ICastLayer", cast, "to_type"),
    "CONCATENATION": _kind("IConcatenationLayer", concatenation, "axis"),
    "CONSTANT": _kind("IConstantLayer", _constant, "shape", "weights"),
    "CUMULATIVE": _kind("ICumulativeLayer", cumulative, "exclusive", "op", "reverse"),
    "DEQUANTIZE": _kind("IDequantizeLayer", dequantize, "axis", "block_shape", "to_type"),
    "DYNAMIC_QUANTIZE": _kind(
        "IDynamicQuantizeLayer",
        dynamic_quantize,
        *("axis", "block_shape", "block_size", "scale_type", "to_type"),
    ),
    "ELEMENTWISE": _kind("IElementWiseLayer", elementwise, "op"),
    "FILL": _kind(
        "IFillLayer",
        fill,
        *("alpha", "beta", "is_alpha_beta_int64", "operation", "shape", "to_type"),
    ),
    "GATHER": _kind("IGatherLayer", gather, "axis", "mode", "num_elementwise_dims"),
    "IDENTITY": _kind("IIdentityLayer", identity),
    "MATRIX_MULTIPLY": _kind("IMatrixMultiplyLayer", matrix_multiply, "op0", "op1"),
    "NORMALIZATION": _kind(
        "INormalizationLayer", normalization, "axes", "epsilon", "is_v2", "num_groups"
    ),
    "QUANTIZE": _kind("IQuantizeLayer", quantize, "axis", "block_shape", "to_type"),
    "REDUCE": _kind("IReduceLayer", reduce, "axes", "keep_dims", "op"),
    "ROTARY_EMBEDDING": _kind(
        "IRotaryEmbeddingLayer", rotary_embedding, "interleaved", "rotary_embedding_dim"
    ),
    "SELECT": _kind("ISelectLayer", select),
    "SHAPE": _kind("IShapeLayer", shape),
    "SHUFFLE": _kind(
        "IShuffleLayer",
        shuffle,
        *("first_transpose", "reshape_dims", "second_transpose", "zero_is_placeholder"),
    ),
    "SLICE": _kind("ISliceLayer", slice_, "axes", "mode", "shape", "start", "stride"),
    "SOFTMAX": _kind("ISoftMaxLayer", softmax, "axes"),
    "SQUEEZE": _kind("ISqueezeLayer", squeeze),
    "TOPK": _kind("ITopKLayer", topk, "axes", "indices_type", "k", "op"),
    "UNARY": _kind("IUnaryLayer", unary, "op"),
    "UNSQUEEZE": _kind("IUnsqueezeLayer", unsqueeze),
}
