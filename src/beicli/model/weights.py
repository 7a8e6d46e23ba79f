"""The files of a checkpoint that no JSON describes: safetensors and the tokenizer.

`names` is every file of the checkpoint, relative to its root: of a checkpoint far away only the
small files may be on this disk.
"""

import json
import math
import struct
from collections.abc import Collection
from pathlib import Path

from beicli.errors import CheckpointError
from beicli.model.files import read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
TOKENIZER_NAME = "tokenizer.json"

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".h5")
# Headers of the largest models are a few megabytes; the format allows 100.
_MAX_HEADER_BYTES = 100_000_000


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
    """Raise CheckpointError if there is no fast tokenizer."""
    if TOKENIZER_NAME not in names:
        raise CheckpointError(
            f"the checkpoint has no `{TOKENIZER_NAME}` (expected at "
            f"`{directory / TOKENIZER_NAME}`)",
            hint="only fast tokenizers are served: write one with "
            "`AutoTokenizer.from_pretrained(PATH, use_fast=True).save_pretrained(PATH)`",
        )


def count_parameters(path: Path) -> int:
    """Count the numbers in a safetensors file from its header; raises CheckpointError."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _MAX_HEADER_BYTES:
                raise CheckpointError(f"`{path}` is no safetensors file: its header is too long")
            header = json.loads(file.read(size))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(
            f"`{path}` is no safetensors file: its header cannot be read",
            hint="fetch the checkpoint again",
        ) from error


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
