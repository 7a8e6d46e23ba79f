"""Layers of TensorRT that move numbers about and change none."""

from collections.abc import Sequence
from typing import Any

import torch

Arguments = Sequence[torch.Tensor | None]
Outputs = tuple[torch.Tensor, ...]


def given(inputs: Arguments, number: int) -> torch.Tensor:
    """Return an input that is not optional."""
    value = inputs[number]
    assert value is not None, f"input {number} is wanted"
    return value


def optional(inputs: Arguments, number: int) -> torch.Tensor | None:
    return inputs[number] if number < len(inputs) else None


def masked_axes(mask: int, rank: int) -> list[int]:
    """Return the axes of a bit mask."""
    assert mask < 1 << rank
    return [axis for axis in range(rank) if mask >> axis & 1]


def identity(_layer: Any, inputs: Arguments) -> Outputs:
    return (given(inputs, 0),)


def shape(_layer: Any, inputs: Arguments) -> Outputs:
    return (torch.tensor(given(inputs, 0).shape, dtype=torch.int64),)


def concatenation(layer: Any, inputs: Arguments) -> Outputs:
    return (torch.cat([given(inputs, n) for n in range(len(inputs))], dim=layer.axis),)


def squeeze(_layer: Any, inputs: Arguments) -> Outputs:
    value, axes = given(inputs, 0), optional(inputs, 1)
    if axes is None:
        return (value.squeeze(),)
    chosen = [axis % value.dim() for axis in axes.tolist()]
    assert all(value.shape[axis] == 1 for axis in chosen)
    return (value.squeeze(chosen),)


def unsqueeze(_layer: Any, inputs: Arguments) -> Outputs:
    value, axes = given(inputs, 0), given(inputs, 1).tolist()
    rank = value.dim() + len(axes)
    chosen = {axis % rank for axis in axes}
    assert len(chosen) == len(axes)
    sizes = iter(value.shape)
    return (value.reshape([1 if axis in chosen else next(sizes) for axis in range(rank)]),)


def shuffle(layer: Any, inputs: Arguments) -> Outputs:
    """Transpose, reshape, transpose."""
    value, wanted = given(inputs, 0), optional(inputs, 1)
    value = _transposed(value, layer.first_transpose)
    # Dimensions that are given by a tensor read as None.
    dims = layer.reshape_dims if wanted is None else wanted.tolist()
    if dims is not None:
        value = value.reshape(_reshaped(value, dims, is_zero_copy=layer.zero_is_placeholder))
    return (_transposed(value, layer.second_transpose),)


def _transposed(value: torch.Tensor, permutation: Any) -> torch.Tensor:
    """Permute dimensions; a permutation has 8 places, of which the first are used."""
    return value.permute([permutation[axis] for axis in range(value.dim())])


def _reshaped(value: torch.Tensor, dims: Sequence[int], *, is_zero_copy: bool) -> list[int]:
    assert all(size >= -1 for size in dims)
    if is_zero_copy:
        return [value.shape[axis] if size == 0 else size for axis, size in enumerate(dims)]
    return list(dims)


def slice_(layer: Any, inputs: Arguments) -> Outputs:
    """Take numbers from `start`, `shape` of them, `stride` apart; 0 apart repeats one."""
    assert layer.mode.name == "STRICT_BOUNDS"
    assert len(inputs) <= 4 or all(each is None for each in inputs[4:])
    value = given(inputs, 0)
    axes = range(value.dim()) if layer.axes is None else layer.axes
    parts = []
    for number, name in ((1, "start"), (2, "shape"), (3, "stride")):
        tensor = optional(inputs, number)
        parts.append(getattr(layer, name) if tensor is None else tensor.tolist())
    for axis, start, size, stride in zip(axes, *parts, strict=True):
        indices = start + stride * torch.arange(size)
        assert size == 0 or (indices.min() >= 0 and indices.max() < value.shape[axis])
        value = value.index_select(axis, indices)
    return (value,)


def gather(layer: Any, inputs: Arguments) -> Outputs:
    data, indices = given(inputs, 0), given(inputs, 1).long()
    assert layer.num_elementwise_dims == 0
    assert (indices >= 0).all(), "a negative index"
    axis = layer.axis
    match layer.mode.name:
        case "DEFAULT":
            taken = data.index_select(axis, indices.flatten())
            return (taken.reshape([*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]]),)
        case "ELEMENT":
            return (data.gather(axis, indices),)
        case "ND":
            return (data[tuple(indices.unbind(-1))],)
        case other:
            raise AssertionError(f"gathers by {other}")


def fill(layer: Any, inputs: Arguments) -> Outputs:
    """Count on from `alpha`, in steps of `beta` along each dimension."""
    assert layer.operation.name == "LINSPACE"
    # Numbers in the place of what is given by tensors.
    assert (layer.alpha, layer.beta, layer.shape) == (-1.0, -1.0, None)
    assert layer.to_type.name in {"INT64", "INT32", "FLOAT"}
    sizes, start, steps = (given(inputs, number) for number in range(3))
    assert len(inputs) == 3
    values = start
    for axis, step in enumerate(steps):
        counted = step * torch.arange(int(sizes[axis]))
        values = values.unsqueeze(-1) + counted
    return (values.to(start.dtype),)
