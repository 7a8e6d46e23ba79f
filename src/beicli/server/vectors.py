"""How vectors are written: as numbers, as base64, or as the bytes of one matrix.

`bytes`, `bytes_only` and `embed_dtype` are vLLM's. A vector never becomes Python floats.
"""

import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beicli.engine.batch import Float32
from beicli.server import fields

RAW_MEDIA_TYPE = "application/octet-stream"


class EncodingFormat(StrEnum):
    """How numbers are written.

    bytes: the rows one after the other, with a header `metadata` that tells what they are;
    bytes_only: without it, which for many rows is longer than some proxies let through.
    """

    FLOAT = "float"
    BASE64 = "base64"
    BYTES = "bytes"
    BYTES_ONLY = "bytes_only"


class EmbedDtype(StrEnum):
    """What the numbers in base64 and bytes are."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Endianness(StrEnum):
    """The order of the bytes of a number; both mean the same on every machine `bei` runs on."""

    LITTLE = "little"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class VectorForm:
    """How a request wants its vectors written.

    dtype: of base64 and bytes only, as with vLLM: numbers written out are what the model gave.
    """

    encoding_format: EncodingFormat = EncodingFormat.FLOAT
    dtype: EmbedDtype = EmbedDtype.FLOAT32

    @property
    def is_raw(self) -> bool:
        """Whether the body is to be the numbers and nothing else."""
        return self.encoding_format in {EncodingFormat.BYTES, EncodingFormat.BYTES_ONLY}


AS_NUMBERS = VectorForm()


def parse_vector_form(body: Mapping[str, Any]) -> VectorForm:
    """Read `encoding_format`, `embed_dtype` and `endianness`."""
    fields.choice(body, "endianness", Endianness, default=Endianness.LITTLE)
    return VectorForm(
        fields.choice(body, "encoding_format", EncodingFormat, default=EncodingFormat.FLOAT),
        fields.choice(body, "embed_dtype", EmbedDtype, default=EmbedDtype.FLOAT32),
    )


def little_endian(vectors: Float32, dtype: EmbedDtype) -> NDArray[np.floating[Any]]:
    """Return `vectors`, [num_vectors, dimension], as numbers of `dtype` in one block of memory.

    float16 holds numbers up to 65504; larger ones become infinite.
    """
    wanted = "<f4" if dtype is EmbedDtype.FLOAT32 else "<f2"
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(vectors, dtype=wanted)


def base64_rows(vectors: Float32, dtype: EmbedDtype = EmbedDtype.FLOAT32) -> list[bytes]:
    """Return each row's little-endian numbers as base64."""
    rows = little_endian(vectors, dtype)
    row_bytes = rows.shape[1] * rows.itemsize
    raw = rows.data.cast("B")
    return [
        binascii.b2a_base64(raw[start : start + row_bytes], newline=False)
        for start in range(0, len(raw), row_bytes)
    ]


def shape_metadata(rows: NDArray[np.floating[Any]], dtype: EmbedDtype) -> dict[str, Any]:
    """Say what a body of raw numbers holds."""
    return {"shape": list(rows.shape), "dtype": dtype.value, "endianness": Endianness.LITTLE.value}


def row_metadata(rows: NDArray[np.floating[Any]], dtype: EmbedDtype) -> list[dict[str, Any]]:
    """Say of each row where in the body it stands, in bytes, as vLLM does."""
    row_bytes = rows.shape[1] * rows.itemsize
    return [
        {
            "index": index,
            "embed_dtype": dtype.value,
            "endianness": Endianness.LITTLE.value,
            "start": index * row_bytes,
            "end": (index + 1) * row_bytes,
            "shape": [rows.shape[1]],
        }
        for index in range(len(rows))
    ]


def metadata_header(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the header `metadata`, in ASCII as headers must be."""
    return {"metadata": json.dumps(metadata, separators=(",", ":"))}
