"""Which files of a checkpoint are read, and which names are safe to write.

Only what a build reads is fetched: JSON, tokenizer files and safetensors, or an ONNX model where
there are none. Pickles and Python files are never downloaded, so they can never be loaded.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from beicli.errors import CheckpointError
from beicli.model.weights import ONNX_NAMES, is_onnx_data, onnx_files

SMALL_PATTERNS = ["*.json", "*.txt", "*.model"]
ALLOW_PATTERNS = [*SMALL_PATTERNS, "*.safetensors"]
# Other formats and frameworks' folders hold safetensors or JSON too, and can be many gigabytes.
IGNORE_PATTERNS = ["onnx/*", "openvino/*", "original/*", "*.onnx.json"]

_WEIGHTS_SUFFIX = ".safetensors"
# The largest tokenizers have 40 MB; a larger text is no tokenizer and no configuration.
_MAX_SMALL_FILE_BYTES = 256 * 2**20
_MAX_NAME_BYTES = 1024
_MAX_PART_BYTES = 255
# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000
HEADER_PREFIX_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a checkpoint that lies elsewhere.

    name: relative to the checkpoint's root. version: what changes when the content does.
    """

    name: str
    size_bytes: int
    version: str


def wanted_names(names: Iterable[str]) -> frozenset[str]:
    """Return which files a build reads, of all that a checkpoint has, relative to its root."""
    names = frozenset(names)
    return frozenset(filter(is_wanted, names)) | frozenset(onnx_files(names))


def is_wanted(name: str) -> bool:
    """Whether a build reads the file of this name, whatever else there is."""
    is_ignored = any(fnmatchcase(name, pattern) for pattern in IGNORE_PATTERNS)
    return not is_ignored and _is_visible(name, ALLOW_PATTERNS)


def is_readable_kind(name: str) -> bool:
    """Whether a file of this name may be kept, in whatever folder it lies."""
    return _is_visible(name, ALLOW_PATTERNS) or is_onnx(name)


def is_onnx(name: str) -> bool:
    """Whether a file may be of an ONNX model that is built from, in whatever folder it lies."""
    graph = ONNX_NAMES[-1]
    parts = PurePosixPath(name).parts
    is_of_model = (
        parts[-1] == graph
        or is_onnx_data(parts[-1], graph)
        or is_onnx_data("/".join(parts[-2:]), ONNX_NAMES[0])
    )
    return is_of_model and _is_visible(name, ["*"])


def _is_visible(name: str, patterns: list[str]) -> bool:
    is_hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return not is_hidden and any(fnmatchcase(name, pattern) for pattern in patterns)


def is_weights(name: str) -> bool:
    """Whether a file of this name holds tensors."""
    return name.endswith(_WEIGHTS_SUFFIX)


def sizes_below(path: Path) -> dict[str, int]:
    """Return the bytes of every file below a folder, by name relative to it."""
    return {
        file.relative_to(path).as_posix(): file.stat().st_size
        for file in path.rglob("*")
        if file.is_file()
    }


def small_files(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Return the files that say what a checkpoint is, without its weights."""
    return [
        file
        for file in files
        if is_wanted(file.name)
        and not is_weights(file.name)
        and file.size_bytes <= _MAX_SMALL_FILE_BYTES
    ]


def check_name(name: str, *, where: str) -> str:
    """Return the plain form of a file's name; raises CheckpointError if it leads elsewhere.

    One that a build reads must be fit to be written and shown too. where: what the name was found
    in, for the message.
    """
    path = PurePosixPath(name)
    is_unsafe = (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or not path.parts
        or (is_readable_kind(name) and not _is_writable(path))
        or len(name.encode(errors="replace")) > _MAX_NAME_BYTES
    )
    if is_unsafe:
        raise CheckpointError(
            f"{where} holds a file with the unsafe name `{name[:200]!a}`",
            hint="nothing of it was kept; pack the checkpoint again from a source you trust",
        )
    return path.as_posix()


def _is_writable(path: PurePosixPath) -> bool:
    lengths = [len(part.encode(errors="replace")) for part in path.parts]
    return str(path).isprintable() and max(lengths) <= _MAX_PART_BYTES


def header_length(prefix: bytes) -> int | None:
    """Bytes of a safetensors file up to the end of its header; None if it is no such file."""
    if len(prefix) < 8:  # noqa: PLR2004 - the length of the length
        return None
    (length,) = struct.unpack("<Q", prefix[:8])
    return None if length > _MAX_HEADER_BYTES else 8 + int(length)
