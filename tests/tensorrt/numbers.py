"""Numbers of TensorRT's types as tensors of torch: constants, FP8, and FP4.

A tensor of FP4 is one of float32 whose values are those of the format.
"""

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import torch

# By name of `DataType`.
DTYPES: dict[str, torch.dtype] = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "FP8": torch.float8_e4m3fn,
    "FP4": torch.float32,
}
FP8_MAX = 448.0
FP4_MAX = 6.0
# E2M1: a sign, two bits of exponent, one of fraction; by code.
FP4_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
# What the bindings give no numpy array of, and how many numbers a byte holds, or bytes a number.
_BYTES_PER_NUMBER = {"BF16": 2.0, "FP8": 1.0, "FP4": 0.5}
# A Python object begins with its count of references and its type; pybind11 puts the pointer next.
_POINTER_OFFSET = 16


class _Weights(ctypes.Structure):
    """`nvinfer1::Weights` of TensorRT's NvInferRuntime.h."""

    _fields_ = (("type", ctypes.c_int32), ("values", ctypes.c_void_p), ("count", ctypes.c_int64))


def read_constant(layer: Any) -> torch.Tensor:
    """Return a copy of what an IConstantLayer holds."""
    name = layer.get_output(0).dtype.name
    shape = tuple(layer.get_output(0).shape)
    weights = layer.weights
    if isinstance(weights, np.ndarray):
        assert DTYPES[name] == torch.from_numpy(weights[:0]).dtype
        return torch.from_numpy(weights.copy()).reshape(shape)
    codes = torch.frombuffer(bytearray(_read_bytes(weights, name)), dtype=torch.uint8)
    if name == "FP4":
        return _unpack_fp4(codes).reshape(shape)
    return codes.view(DTYPES[name]).reshape(shape)


def _read_bytes(weights: Any, name: str) -> bytes:
    """Read numbers for which the bindings have no other way, from where they lie."""
    address = ctypes.c_void_p.from_address(id(weights) + _POINTER_OFFSET).value
    assert address is not None
    found = _Weights.from_address(address)
    # If this is no pointer to weights, then hardly so.
    assert (found.type, found.count) == (int(weights.dtype), weights.size)
    assert weights.dtype.name == name
    assert found.values is not None
    num_bytes = found.count * _BYTES_PER_NUMBER[name]
    assert num_bytes == int(num_bytes)
    return ctypes.string_at(found.values, int(num_bytes))


def _unpack_fp4(packed: torch.Tensor) -> torch.Tensor:
    """Return the numbers of bytes that hold two each, the first in the low bits."""
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten().int()
    values = FP4_VALUES[codes & 7]
    return torch.where(codes >= 8, -values, values)


def to_fp8(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to the nearest FP8, ties to even; what is too large becomes the largest."""
    return values.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)


def to_fp4(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to the nearest FP4, ties to even; what is too large becomes the largest."""
    limited = values.clamp(-FP4_MAX, FP4_MAX).numpy()
    rounded: torch.Tensor = torch.from_numpy(
        limited.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    )
    return rounded


def is_fp4(values: torch.Tensor) -> bool:
    """Whether every number is one of the format."""
    return bool(torch.isin(values.abs(), FP4_VALUES).all())
