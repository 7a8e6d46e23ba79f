"""Layers of TensorRT that compute: products, sums, norms, and numbers of few bits."""

from collections.abc import Callable
from typing import Any

import torch
from tests.tensorrt.movement import Arguments, Outputs, given, masked_axes, optional
from tests.tensorrt.numbers import DTYPES, FP4_MAX, to_fp4, to_fp8

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_BLOCK_SIZE = 16

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "RELU": torch.relu,
    "SIGMOID": torch.sigmoid,
    "TANH": torch.tanh,
    "SOFTPLUS": torch.nn.functional.softplus,
    "GELU_ERF": torch.nn.functional.gelu,
    "GELU_TANH": lambda value: torch.nn.functional.gelu(value, approximate="tanh"),
}
_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ABS": torch.abs,
    "CEIL": torch.ceil,
    "COS": torch.cos,
    "ERF": torch.erf,
    "EXP": torch.exp,
    "FLOOR": torch.floor,
    "LOG": torch.log,
    "NEG": torch.neg,
    "RECIP": torch.reciprocal,
    "SIGN": torch.sign,
    "SIN": torch.sin,
    "SQRT": torch.sqrt,
}
_ELEMENTWISE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "POW": torch.pow,
    "PROD": torch.mul,
    "SUB": torch.sub,
    "SUM": torch.add,
}
_OF_BOOL: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
}


def cast(layer: Any, inputs: Arguments) -> Outputs:
    name = layer.to_type.name
    assert name not in {"FP8", "FP4"}, "numbers of few bits are quantised"
    return (given(inputs, 0).to(DTYPES[name]),)


def activation(layer: Any, inputs: Arguments) -> Outputs:
    value = given(inputs, 0)
    assert value.dtype in _FLOATS
    if layer.type.name == "CLIP":
        return (value.clamp(layer.alpha, layer.beta),)
    # Of no meaning to the others that are known.
    assert (layer.alpha, layer.beta) in {(0.0, 0.0), (1.0, 1.0)}
    return (_ACTIVATIONS[layer.type.name](value.float()).to(value.dtype),)


def unary(layer: Any, inputs: Arguments) -> Outputs:
    value, name = given(inputs, 0), layer.op.name
    if name == "NOT":
        assert value.dtype == torch.bool
        return (~value,)
    return (_UNARY[name](value),)


def elementwise(layer: Any, inputs: Arguments) -> Outputs:
    left, right, name = given(inputs, 0), given(inputs, 1), layer.op.name
    assert left.dim() == right.dim()
    assert left.dtype == right.dtype
    if name in _OF_BOOL:
        assert left.dtype == torch.bool
        return (_OF_BOOL[name](left, right),)
    if name in {"DIV", "FLOOR_DIV"}:
        return (_divided(left, right, is_floor=name == "FLOOR_DIV"),)
    return (_ELEMENTWISE[name](left, right),)


def _divided(left: torch.Tensor, right: torch.Tensor, *, is_floor: bool) -> torch.Tensor:
    if is_floor:
        return torch.div(left, right, rounding_mode="floor")
    return torch.div(left, right, rounding_mode=None if left.dtype in _FLOATS else "trunc")


def select(_layer: Any, inputs: Arguments) -> Outputs:
    condition, left, right = (given(inputs, number) for number in range(3))
    assert condition.dtype == torch.bool
    assert left.dtype == right.dtype
    return (torch.where(condition, left, right),)


def matrix_multiply(layer: Any, inputs: Arguments) -> Outputs:
    sides = []
    for value, how in ((given(inputs, 0), layer.op0.name), (given(inputs, 1), layer.op1.name)):
        assert how in {"NONE", "TRANSPOSE"}
        assert value.dtype in _FLOATS
        sides.append(value.transpose(-1, -2) if how == "TRANSPOSE" else value)
    left, right = sides
    assert left.dtype == right.dtype
    assert left.dim() == right.dim()
    return ((left.float() @ right.float()).to(left.dtype),)


def reduce(layer: Any, inputs: Arguments) -> Outputs:
    value = given(inputs, 0)
    axes = masked_axes(layer.axes, value.dim())
    wide = value.float() if value.dtype in _FLOATS else value
    match layer.op.name:
        case "SUM":
            reduced = wide.sum(axes, keepdim=layer.keep_dims)
        case "AVG":
            reduced = wide.mean(axes, keepdim=layer.keep_dims)
        case "MAX":
            reduced = wide.amax(axes, keepdim=layer.keep_dims)
        case "MIN":
            reduced = wide.amin(axes, keepdim=layer.keep_dims)
        case other:
            raise AssertionError(f"reduces by {other}")
    return (reduced.to(value.dtype),)


def cumulative(layer: Any, inputs: Arguments) -> Outputs:
    assert layer.op.name == "SUM"
    assert not layer.exclusive
    assert not layer.reverse
    value, axis = given(inputs, 0), int(given(inputs, 1))
    return (value.cumsum(axis, dtype=value.dtype),)


def softmax(layer: Any, inputs: Arguments) -> Outputs:
    value = given(inputs, 0)
    (axis,) = masked_axes(layer.axes, value.dim())
    return (value.float().softmax(axis).to(value.dtype),)


def topk(layer: Any, inputs: Arguments) -> Outputs:
    assert layer.op.name in {"MAX", "MIN"}
    value = given(inputs, 0)
    dynamic = optional(inputs, 1)
    count = layer.k if dynamic is None else int(dynamic)
    (axis,) = masked_axes(layer.axes, value.dim())
    found, indices = value.topk(count, dim=axis, largest=layer.op.name == "MAX")
    return (found, indices.to(DTYPES[layer.indices_type.name]))


def normalization(layer: Any, inputs: Arguments) -> Outputs:
    """Norm of layers, added up in float32; scale and bias have the rank of what is normed."""
    assert layer.is_v2
    assert layer.num_groups == 1
    value, scale, bias = (given(inputs, number) for number in range(3))
    assert value.dim() == scale.dim() == bias.dim()
    axes = masked_axes(layer.axes, value.dim())
    wide = value.float()
    centred = wide - wide.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    normed = centred / torch.sqrt(variance + layer.epsilon)
    return ((normed * scale.float() + bias.float()).to(value.dtype),)


def quantize(layer: Any, inputs: Arguments) -> Outputs:
    assert layer.to_type.name == "FP8"
    assert len(inputs) == 2 or all(each is None for each in inputs[2:]), "no zero point"
    value, scale = given(inputs, 0), given(inputs, 1)
    assert scale.dim() == 0, "activations have one scale"
    assert scale.dtype == torch.float32
    return (to_fp8(value.float() / scale),)


def dequantize(layer: Any, inputs: Arguments) -> Outputs:
    assert len(inputs) == 2 or all(each is None for each in inputs[2:]), "no zero point"
    codes, scale = given(inputs, 0), given(inputs, 1)
    assert scale.dtype == torch.float32
    assert layer.to_type.name in {"FLOAT", "HALF", "BF16"}
    spread = _spread(scale, codes, layer.axis)
    return ((codes.float() * spread).to(DTYPES[layer.to_type.name]),)


def _spread(scale: torch.Tensor, codes: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the scale of each code: one for all, one for a channel, or one for a block."""
    if scale.dim() == 0:
        return scale
    if scale.dim() == 1 and codes.dim() > 1:
        assert len(scale) == codes.shape[axis]
        return scale.reshape([-1 if each == axis else 1 for each in range(codes.dim())])
    assert scale.dim() == codes.dim()
    repeats = [
        of_codes // of_scale for of_codes, of_scale in zip(codes.shape, scale.shape, strict=True)
    ]
    assert sorted(repeats) == [*[1] * (codes.dim() - 1), _BLOCK_SIZE], "blocks along one dimension"
    blocked = repeats.index(_BLOCK_SIZE)
    assert codes.shape[blocked] == _BLOCK_SIZE * scale.shape[blocked]
    return scale.repeat_interleave(_BLOCK_SIZE, dim=blocked)


def dynamic_quantize(layer: Any, inputs: Arguments) -> Outputs:
    """Put activations into NVFP4: codes, and the scale of each block in FP8.

    The second input scales the scales, so that they fill FP8.
    """
    assert (layer.to_type.name, layer.scale_type.name) == ("FP4", "FP8")
    assert layer.block_size == _BLOCK_SIZE
    assert len(layer.block_shape) == 0, "blocks along one dimension"
    value, global_scale = given(inputs, 0), given(inputs, 1)
    assert layer.axis == value.dim() - 1
    assert global_scale.dtype == torch.float32
    blocks = value.float().unflatten(-1, (-1, _BLOCK_SIZE))
    block_scale = to_fp8(blocks.abs().amax(dim=-1) / FP4_MAX / global_scale)
    scale = (block_scale.float() * global_scale).unsqueeze(-1)
    # A block whose scale is 0 in FP8 comes out as 0, whatever its codes.
    codes = torch.where(scale == 0, 0.0, to_fp4(blocks / torch.where(scale == 0, 1.0, scale)))
    return (codes.reshape(value.shape), block_scale)
