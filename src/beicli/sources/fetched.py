"""What a fetch hands back: a whole checkpoint, or its small files and the names of the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from beicli.model.weights import list_files, onnx_files


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this disk.

    resolved_revision: what exactly was fetched. The commit for the hub; for a bucket a sha256 over
    the names, sizes and ETags of its files; for a URL the sha256 of the archive; None for a local
    folder.
    """

    path: Path
    resolved_revision: str | None

    @property
    def size_bytes(self) -> int:
        """Bytes of its weights: safetensors, and ONNX where it is what a build reads."""
        names = list_files(self.path)
        weights = {name for name in names if name.endswith(".safetensors")} | {*onnx_files(names)}
        return sum((self.path / name).stat().st_size for name in weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint as far as it can be seen without its weights.

    path: a folder with at least the small files. sizes: bytes of every file of the checkpoint by
    name, here or not. headers: for safetensors files whose header was cheap to read, a file that
    begins with that header; it may end there. resolved_revision: as in `Checkpoint`.
    """

    path: Path
    sizes: Mapping[str, int]
    headers: Mapping[str, Path]
    resolved_revision: str | None
