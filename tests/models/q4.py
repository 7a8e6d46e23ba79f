"""Turn 4-bit and 8-bit weight blocks back into float32.

A block is 32 weights that share a scale. Sources: ggml's block layouts; ONNX Runtime's
`MatMulNBits`.
"""

import numpy as np
import numpy.typing as npt
from tests.models.checkpoint import Float32

_UInt8 = npt.NDArray[np.uint8]


def dequantize_q4_0(blocks: bytes) -> Float32:
    """ggml Q4_0, 18 bytes a block: scale, codes. Weight = scale * (code - 8). Returns it flat."""
    rows = np.frombuffer(blocks, np.uint8).reshape(-1, 18)
    return (_float16(rows[:, :2]) * (_ggml_codes(rows[:, 2:]) - 8)).ravel()


def dequantize_q4_1(blocks: bytes) -> Float32:
    """ggml Q4_1, 20 bytes a block: scale, offset, codes. Weight = scale * code + offset."""
    rows = np.frombuffer(blocks, np.uint8).reshape(-1, 20)
    scale, offset = _float16(rows[:, :2]), _float16(rows[:, 2:4])
    return (scale * _ggml_codes(rows[:, 4:]) + offset).ravel()


def dequantize_q8_0(blocks: bytes) -> Float32:
    """ggml Q8_0, 34 bytes a block: scale, signed codes. Weight = scale * code."""
    rows = np.frombuffer(blocks, np.uint8).reshape(-1, 34)
    return (_float16(rows[:, :2]) * rows[:, 2:].view(np.int8).astype(np.float32)).ravel()


def dequantize_matmul_nbits(codes: _UInt8, scales: Float32) -> Float32:
    """ONNX Runtime's 4-bit `MatMulNBits` without zero points. Weight = scale * (code - 8).

    codes: [num_rows, num_blocks, 16]; scales: [num_rows, num_blocks].
    Returns [num_rows, num_blocks * 32]. Unlike ggml, a byte holds two neighbours.
    """
    pairs = np.stack([codes & 0x0F, codes >> 4], axis=-1).astype(np.float32) - 8
    num_rows, num_blocks, _ = codes.shape
    weights = pairs.reshape(num_rows, num_blocks, 32) * scales[..., None]
    return weights.reshape(num_rows, num_blocks * 32)


def _float16(pair: _UInt8) -> Float32:
    """A little-endian float16 at the front of every row, as a column."""
    return pair.copy().view("<f2").astype(np.float32)


def _ggml_codes(packed: _UInt8) -> Float32:
    """Low halves of the 16 bytes are weights 0 to 15, high halves are weights 16 to 31."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1).astype(np.float32)
