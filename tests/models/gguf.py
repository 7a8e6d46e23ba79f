"""Read a GGUF file: llama.cpp's container of settings and (quantised) tensors.

Only the value and tensor types that the pinned files use. Source: ggml's GGUF specification.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.models.checkpoint import Float32
from tests.models.errors import ConversionError
from tests.models.q4 import dequantize_q4_1, dequantize_q8_0

_MAGIC = b"GGUF"
_ALIGNMENT_BYTES = 32
_STRING_TYPE, _ARRAY_TYPE = 8, 9
# Value type number -> struct format.
_SCALARS = dict(enumerate("BbHhIif?")) | dict(enumerate("Qqd", start=10))


def _float32(content: bytes) -> Float32:
    return np.frombuffer(content, "<f4").astype(np.float32)


# Tensor type number -> (weights in a block, bytes of a block, decoder).
_TENSOR_TYPES: dict[int, tuple[int, int, Callable[[bytes], Float32]]] = {
    0: (1, 4, _float32),
    3: (32, 20, dequantize_q4_1),
    8: (32, 34, dequantize_q8_0),
}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """settings: the file's key-value pairs; weights: float32, in numpy's order of dimensions."""

    settings: dict[str, Any]
    weights: dict[str, Float32]


class _Reader:
    """A cursor over the file's bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def take(self, layout: str) -> Any:
        (value,) = struct.unpack_from(f"<{layout}", self.content, self.position)
        self.position += struct.calcsize(f"<{layout}")
        return value

    def take_text(self) -> str:
        size_bytes = self.take("Q")
        self.position += size_bytes
        return self.content[self.position - size_bytes : self.position].decode()

    def take_value(self, value_type: int) -> Any:
        if value_type == _STRING_TYPE:
            return self.take_text()
        if value_type == _ARRAY_TYPE:
            item_type, num_items = self.take("I"), self.take("Q")
            return [self.take_value(item_type) for _ in range(num_items)]
        return self.take(_SCALARS[value_type])


@dataclass(frozen=True, slots=True)
class _TensorPlace:
    name: str
    shape: tuple[int, ...]
    tensor_type: int
    offset_bytes: int


def read_gguf(file: Path) -> GgufFile:
    reader = _Reader(file.read_bytes())
    if reader.content[:4] != _MAGIC:
        raise ConversionError(
            f"`{file.name}` starts with {reader.content[:4]!r}, wanted {_MAGIC!r}"
        )
    reader.position = len(_MAGIC)
    _version, num_tensors, num_settings = reader.take("I"), reader.take("Q"), reader.take("Q")
    settings = {}
    for _ in range(num_settings):
        key = reader.take_text()
        settings[key] = reader.take_value(reader.take("I"))
    places = [_read_place(reader) for _ in range(num_tensors)]
    start = -(-reader.position // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    data = memoryview(reader.content)[start:]
    return GgufFile(settings, {place.name: _decode(place, data) for place in places})


def _read_place(reader: _Reader) -> _TensorPlace:
    name = reader.take_text()
    lengths = [reader.take("Q") for _ in range(reader.take("I"))]
    # GGUF writes the fastest-running dimension first.
    return _TensorPlace(name, tuple(reversed(lengths)), reader.take("I"), reader.take("Q"))


def _decode(place: _TensorPlace, data: memoryview) -> Float32:
    block_weights, block_bytes, decode = _TENSOR_TYPES[place.tensor_type]
    size_bytes = int(np.prod(place.shape)) // block_weights * block_bytes
    content = bytes(data[place.offset_bytes : place.offset_bytes + size_bytes])
    return decode(content).reshape(place.shape)
