"""`golden.npz`: a few samples with their reference outputs, to check an engine without torch.

texts: [num_samples], the text, or the query of a pair. second_texts: [num_samples], the text of a
pair, else empty. is_pair: [num_samples]. outputs: [num_rows, dimension], float32, sample after
sample. cu_rows: [num_samples + 1]; sample i has the rows cu_rows[i] to cu_rows[i + 1].
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.names import GOLDEN_NAME
from beicli.errors import ArtifactError

Float32 = NDArray[np.float32]
# A text, or a query and a text for it.
Sample = str | tuple[str, str]

_EXCERPT_CHARACTERS = 80
_ARRAYS = ("texts", "second_texts", "is_pair", "outputs", "cu_rows")
# A few samples of the widest output, a vocabulary, come to a hundredth of this.
_MAX_BYTES = 2**28


def write_golden(path: Path, samples: Sequence[Sample], outputs: Sequence[Float32]) -> None:
    """Write samples and their outputs, each [dimension] or [num_tokens, dimension]."""
    rows = [np.atleast_2d(output) for output in outputs]
    pairs = [(sample, "") if isinstance(sample, str) else sample for sample in samples]
    np.savez_compressed(
        path,
        texts=np.array([first for first, _ in pairs]),
        second_texts=np.array([second for _, second in pairs]),
        is_pair=np.array([not isinstance(sample, str) for sample in samples]),
        outputs=np.concatenate(rows),
        cu_rows=np.cumsum([0, *map(len, rows)]),
    )


def read_golden(path: Path) -> list[tuple[Sample, Float32]]:
    """Return each sample with its outputs, [num_rows, dimension].

    Raises ArtifactError if the file is not what `write_golden` writes.
    """
    try:
        arrays = _read_arrays(path)
    except ArtifactError:
        raise
    except Exception as error:
        # Of a damaged file zipfile, zlib and numpy raise a dozen kinds.
        what = str(error) or type(error).__name__
        raise ArtifactError(f"`{GOLDEN_NAME}` cannot be read: {what}") from error
    if not _are_sound(arrays):
        raise ArtifactError(f"`{GOLDEN_NAME}` does not hold samples and their outputs")
    second_texts, is_pair = arrays["second_texts"].tolist(), arrays["is_pair"].tolist()
    outputs, cu_rows = arrays["outputs"], arrays["cu_rows"].tolist()
    golden: list[tuple[Sample, Float32]] = []
    for index, first in enumerate(arrays["texts"].tolist()):
        sample = (first, second_texts[index]) if is_pair[index] else first
        golden.append((sample, outputs[cu_rows[index] : cu_rows[index + 1]]))
    return golden


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    # Opened here: numpy leaves its own file open when it turns out to be no archive.
    with path.open("rb") as archive:
        with zipfile.ZipFile(archive) as members:
            size_bytes = sum(member.file_size for member in members.infolist())
        if size_bytes > _MAX_BYTES:
            raise ArtifactError(
                f"`{GOLDEN_NAME}` unpacks to {size_bytes / 1e6:,.0f} MB, at most "
                f"{_MAX_BYTES / 1e6:,.0f} are read"
            )
        archive.seek(0)
        with np.load(archive, allow_pickle=False) as file:
            return {name: file[name] for name in _ARRAYS}


def _are_sound(arrays: dict[str, NDArray[Any]]) -> bool:
    """Whether shapes, types and row numbers are those of a golden file."""
    texts, second_texts, is_pair, outputs, cu_rows = (arrays[name] for name in _ARRAYS)
    num_dimensions = tuple(arrays[name].ndim for name in _ARRAYS)
    kinds = tuple(arrays[name].dtype.kind for name in _ARRAYS)
    if num_dimensions != (1, 1, 1, 2, 1) or kinds != ("U", "U", "b", "f", "i"):
        return False
    lengths = (len(second_texts), len(is_pair), len(cu_rows) - 1)
    return lengths == (len(texts),) * 3 and bool(
        cu_rows[0] == 0 and cu_rows[-1] == len(outputs) and (np.diff(cu_rows) > 0).all()
    )


def excerpt(sample: Sample) -> str:
    """Return the start of a sample, for reports."""
    if isinstance(sample, str):
        return sample[:_EXCERPT_CHARACTERS]
    return " | ".join(text[: _EXCERPT_CHARACTERS // 2] for text in sample)
