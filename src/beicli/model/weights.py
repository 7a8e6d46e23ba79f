"""The files of a checkpoint that no JSON describes: safetensors, ONNX and the tokenizer.

`names` is every file of the checkpoint, relative to its root: of a checkpoint far away only the
small files may be on this disk.
"""

import json
import math
import re
import struct
from collections.abc import Collection
from pathlib import Path

import orjson

from beicli.errors import CheckpointError
from beicli.model.files import is_file, read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
TOKENIZER_NAME = "tokenizer.json"
# Where exporters put the graph in float32; the first that is there is taken. Names with more to
# them, such as `model_quantized.onnx` and `model_fp16.onnx`, hold other numbers.
ONNX_NAMES = ("onnx/model.onnx", "model.onnx")

# Weights that lie beside the graph, in as many files as there is room for.
_ONNX_DATA_SUFFIX = re.compile(r"[_.]data(_[0-9]+)?")
_ONNX_FOLDER = "onnx"
_TENSOR = re.compile(r"Constant_[0-9]+_attr__value|onnx__[A-Za-z]+_[0-9]+|[\w.]+\.(weight|bias)")
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


def has_safetensors(names: Collection[str]) -> bool:
    """Whether the model's weights are there as safetensors, which win over ONNX."""
    return INDEX_NAME in names or WEIGHTS_NAME in names


def onnx_files(names: Collection[str]) -> tuple[str, ...]:
    """Name the ONNX model of a checkpoint without safetensors, the graph first.

    Nothing where there are safetensors, or no ONNX model.
    """
    graph = next((name for name in ONNX_NAMES if name in names), None)
    if graph is None or has_safetensors(names):
        return ()
    data = (name for name in names if is_onnx_data(name, graph))
    return (graph, *sorted(data))


def is_onnx_data(name: str, graph: str) -> bool:
    """Whether a file of this name holds weights of the ONNX model in the file `graph`."""
    if name.startswith(graph) and _ONNX_DATA_SUFFIX.fullmatch(name, len(graph)):
        return True
    # torch names a file after its tensor, such as `Constant_7_attr__value`.
    folder, _, tensor = name.rpartition("/")
    return folder == _ONNX_FOLDER == graph.rpartition("/")[0] and bool(_TENSOR.fullmatch(tensor))


def check_weights(directory: Path, names: Collection[str]) -> tuple[str, ...]:
    """Return the files of the model's weights: safetensors or, where there are none, ONNX.

    Raises CheckpointError, which says what else was found, if one is missing.
    """
    if INDEX_NAME in names:
        return _check_shards(directory / INDEX_NAME, names)
    if WEIGHTS_NAME in names:
        return (WEIGHTS_NAME,)
    onnx = onnx_files(names)
    if onnx:
        return onnx
    found, hint = _describe_others(names)
    raise CheckpointError(
        f"the checkpoint has no `{WEIGHTS_NAME}` (expected at `{directory / WEIGHTS_NAME}`) and no "
        f"`{ONNX_NAMES[0]}`{found}",
        hint=hint,
    )


def _describe_others(names: Collection[str]) -> tuple[str, str]:
    """Return what is there in place of weights, and what to do about it."""
    pickles = sorted(name for name in names if name.endswith(_PICKLE_SUFFIXES) and "/" not in name)
    convert = (
        "convert it once, where you trust it: "
        "`AutoModel.from_pretrained(PATH).save_pretrained(PATH)`"
    )
    if pickles:
        return f"; found `{pickles[0]}`, which is never loaded: it can run code", convert
    variants = sorted(name for name in names if name.endswith(".onnx"))
    if not variants:
        return "", convert
    hint = (
        f"export it in float32 as `{ONNX_NAMES[0]}`, or build from the checkpoint it was made of: "
        "an engine is compared with float32 numbers, which such a variant does not hold"
    )
    return f"; found `{variants[0]}`, and nothing but `model.onnx` is taken for float32", hint


def check_tokenizer(directory: Path, names: Collection[str]) -> None:
    """Raise CheckpointError if there is no fast tokenizer, or a file that holds something else."""
    path = directory / TOKENIZER_NAME
    hint = (
        "only fast tokenizers are served: take a revision that has one, or write one with "
        "transformers 4 (5 makes other tokens for some models): "
        "`AutoTokenizer.from_pretrained(PATH).save_pretrained(PATH)`"
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
