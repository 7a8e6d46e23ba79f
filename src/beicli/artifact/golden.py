"""`golden.npz`: a few samples with their reference outputs, to check an engine without torch.

texts: [num_samples], the text, or the query of a pair. second_texts: [num_samples], the text of a
pair, else empty. is_pair: [num_samples]. outputs: [num_rows, dimension], float32, sample after
sample. cu_rows: [num_samples + 1]; sample i has the rows cu_rows[i] to cu_rows[i + 1].
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
# A text, or a query and a text for it.
Sample = str | tuple[str, str]

_EXCERPT_CHARACTERS = 80


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
    """Return each sample with its outputs, [num_rows, dimension]."""
    # Opened here: numpy leaves its own file open when it turns out to be no archive.
    with path.open("rb") as archive, np.load(archive, allow_pickle=False) as file:
        texts, second_texts = file["texts"].tolist(), file["second_texts"].tolist()
        outputs, cu_rows = file["outputs"], file["cu_rows"].tolist()
        is_pair = file["is_pair"].tolist()
    golden: list[tuple[Sample, Float32]] = []
    for index, first in enumerate(texts):
        sample = (first, second_texts[index]) if is_pair[index] else first
        golden.append((sample, outputs[cu_rows[index] : cu_rows[index + 1]]))
    return golden


def excerpt(sample: Sample) -> str:
    """Return the start of a sample, for reports."""
    if isinstance(sample, str):
        return sample[:_EXCERPT_CHARACTERS]
    return " | ".join(text[: _EXCERPT_CHARACTERS // 2] for text in sample)
