"""The files of a checkpoint that no JSON describes: safetensors and the tokenizer.

`names` is every file of the checkpoint, relative to its root: of a checkpoint far away only the
small files may be on this disk.
"""

import json
import math
import struct
from collections.abc import Collection
from pathlib import Path

import orjson

from beicli.errors import CheckpointError
from beicli.model.files import is_file, read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
TOKENIZER_NAME = "tokenizer.json"

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".h5")
# Headers of the largest models are a few megabytes; the format allows 100.
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSION = 2**40
# What reading a header can raise that holds any JSON, or none.
_HEADER_TROUBLE = (
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def list_files(directory: Path) -> frozenset[str]:
    """Name every file below `directory`, relative to it."""
    return frozenset(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )


def check_weights(directory: Path, names: Collection[str]) -> tuple[str, ...]:
    """Return the safetensors files of the model; raises CheckpointError if one is missing."""
    if INDEX_NAME in names:
        return _check_shards(directory / INDEX_NAME, names)
    if WEIGHTS_NAME in names:
        return (WEIGHTS_NAME,)
    others = sorted(name for name in names if name.endswith(_PICKLE_SUFFIXES) and "/" not in name)
    found = f"; found `{others[0]}`, which is never loaded: it can run code" if others else ""
    raise CheckpointError(
        f"the checkpoint has no `{WEIGHTS_NAME}` (expected at `{directory / WEIGHTS_NAME}`){found}",
        hint="convert it once, where you trust it: "
        "`AutoModel.from_pretrained(PATH).save_pretrained(PATH)`",
    )


def check_tokenizer(directory: Path, names: Collection[str]) -> None:
    """Raise CheckpointError if there is no fast tokenizer, or a file that holds something else."""
    path = directory / TOKENIZER_NAME
    hint = (
        "only fast tokenizers are served: write one with "
        "`AutoTokenizer.from_pretrained(PATH, use_fast=True).save_pretrained(PATH)`"
    )
    if TOKENIZER_NAME not in names:
        raise CheckpointError(
            f"the checkpoint has no `{TOKENIZER_NAME}` (expected at `{path}`)", hint=hint
        )
    # Of a checkpoint far away it may be too large to fetch just for a look.
    if not is_file(path):
        return
    try:
        values = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`{path}` cannot be read as JSON: {error}", hint=hint) from error
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise CheckpointError(f"`{path}` describes no tokenizer: it has no `model`", hint=hint)


def count_parameters(path: Path, *, size_bytes: int) -> int:
    """Count the numbers in a safetensors file from its header.

    path: a file that holds at least the header. size_bytes: of the whole file.
    Raises CheckpointError if it is no such file, or not all of one.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise CheckpointError(f"`{path}` is no safetensors file: its header is too long")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        num_parameters = sum(_num_numbers(entry["shape"]) for entry in tensors)
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except _HEADER_TROUBLE as error:
        raise CheckpointError(
            f"`{path}` is no safetensors file: its header cannot be read",
            hint="fetch the checkpoint again",
        ) from error
    if end != size_bytes:
        raise CheckpointError(
            f"`{path}` is not whole: it has {size_bytes:,} bytes, and its header describes {end:,}",
            hint="fetch the checkpoint again",
        )
    if not num_parameters:
        raise CheckpointError(f"`{path}` holds no numbers", hint="fetch the checkpoint again")
    return num_parameters


def _num_numbers(shape: list[int]) -> int:
    if not all(type(size) is int and 0 <= size < _MAX_DIMENSION for size in shape):
        raise ValueError("a shape is a list of counts")
    return math.prod(shape)


def _check_shards(index: Path, names: Collection[str]) -> tuple[str, ...]:
    values = read_json(index)
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"`{index}` has no `weight_map`")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for name in shards:
        if "/" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"`{index}` names `{name}`, which is not a safetensors file")
        if name not in names:
            raise CheckpointError(f"`{index}` names `{name}`, which is missing")
    return tuple(shards)
