"""The numbers of 8 and 4 bit that GPUs multiply: FP8 (E4M3) and NVFP4 (E2M1 in blocks of 16).

Pure numpy; `ml_dtypes` has the formats themselves. A weight is [in_features, out_features].
Sources: "FP8 Formats for Deep Learning" (2022) for E4M3; NVIDIA's description of NVFP4 for blocks.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from beicli.model import modelopt

Float32 = NDArray[np.float32]
# Arrays of `ml_dtypes`, which numpy's own types do not name.
Float8 = NDArray[Any]
Float4 = NDArray[Any]

FP8_MAX = modelopt.FP8_MAX
FP4_MAX = modelopt.FP4_MAX
# Numbers along the input features that share a scale in NVFP4.
BLOCK_SIZE = modelopt.GROUP_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class Fp8Weight:
    """codes: [in_features, out_features], FP8. scale: [out_features]; a value is code * scale."""

    codes: Float8
    scale: Float32

    @property
    def values(self) -> Float32:
        """The weights that the codes stand for."""
        values: Float32 = self.codes.astype(np.float32)
        values *= self.scale
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Fp4Weight:
    """A weight in NVFP4; a value is code * block_scale * global_scale.

    codes: [in_features, out_features], FP4. block_scale: [in_features / 16, out_features], FP8.
    """

    codes: Float4
    block_scale: Float8
    global_scale: float

    @property
    def values(self) -> Float32:
        """The weights that the codes stand for."""
        scale = self.block_scale.astype(np.float32) * np.float32(self.global_scale)
        return self.codes.astype(np.float32) * np.repeat(scale, BLOCK_SIZE, axis=0)


def to_fp8(values: Float32) -> Float8:
    """Round to the nearest FP8, ties to even; what is too large becomes the largest."""
    # The format has no infinity: without the limits it would be a NaN.
    return np.clip(values, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)


def to_fp4(values: Float32) -> Float4:
    """Round to the nearest FP4, ties to even; what is too large becomes the largest."""
    return np.clip(values, -FP4_MAX, FP4_MAX).astype(ml_dtypes.float4_e2m1fn)


def fp8_scale(amax: float) -> float:
    """Return the scale with which numbers up to `amax` fill FP8."""
    return max(amax, modelopt.SMALLEST_AMAX) / FP8_MAX


def fp4_global_scale(amax: float) -> float:
    """Return the scale of the scales: with it that of the largest block fills FP8."""
    return max(amax, modelopt.SMALLEST_AMAX) / (FP4_MAX * FP8_MAX)


def quantize_fp8(weight: Float32) -> Fp8Weight:
    """Put a weight into FP8, each output channel with a scale of its own."""
    amax = np.maximum(np.abs(weight).max(axis=0), np.float32(modelopt.SMALLEST_AMAX))
    scale = (amax / np.float32(FP8_MAX)).astype(np.float32)
    return Fp8Weight(codes=to_fp8(weight / scale), scale=scale)


def quantize_fp4(weight: Float32) -> Fp4Weight:
    """Put a weight into NVFP4; its input features are a multiple of 16."""
    num_inputs, num_outputs = weight.shape
    blocks = weight.reshape(num_inputs // BLOCK_SIZE, BLOCK_SIZE, num_outputs)
    global_scale = np.float32(fp4_global_scale(float(np.abs(weight).max())))
    amax = np.abs(blocks).max(axis=1)
    block_scale = to_fp8(amax / np.float32(FP4_MAX) / global_scale)
    scale = block_scale.astype(np.float32) * global_scale
    # A block whose scale is 0 in FP8 has nothing but zeros worth keeping.
    divisor = np.where(scale == 0, np.float32(1), scale)
    codes = to_fp4(np.where(scale[:, None] == 0, np.float32(0), blocks / divisor[:, None]))
    return Fp4Weight(
        codes=codes.reshape(num_inputs, num_outputs),
        block_scale=block_scale,
        global_scale=float(global_scale),
    )


def emulate_fp8(values: Float32, scale: float) -> Float32:
    """Return what is left of activations that go through FP8."""
    return to_fp8(values / np.float32(scale)).astype(np.float32) * np.float32(scale)


def emulate_fp4(rows: Float32, global_scale: float) -> Float32:
    """Return what is left of activations, [num_rows, in_features], that go through NVFP4.

    Each block of each row has a scale of what it holds.
    """
    num_rows, num_inputs = rows.shape
    blocks = rows.reshape(num_rows, num_inputs // BLOCK_SIZE, BLOCK_SIZE)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    scale = to_fp8(amax / np.float32(FP4_MAX) / np.float32(global_scale)).astype(np.float32)
    scale *= np.float32(global_scale)
    divisor = np.where(scale == 0, np.float32(1), scale)
    codes = to_fp4(np.where(scale == 0, np.float32(0), blocks / divisor)).astype(np.float32)
    values: Float32 = (codes * scale).reshape(rows.shape)
    return values
