"""A Python that has the stand-in for TensorRT-LLM, and checkpoints that it computes."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beicli.engine.tensorrt_llm.process import WorkerOptions

FAKE = Path(__file__).parent / "fake"
VOCAB_SIZE, DIMENSION = 50, 8
TABLE: NDArray[np.float32] = (
    np.random.default_rng(0).normal(size=(VOCAB_SIZE, DIMENSION)).astype(np.float32)
)


def fake_python(directory: Path) -> Path:
    """Return the path of a Python that is this one with the stand-in installed."""
    script = directory / "llm-python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{FAKE}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return script


def table_checkpoint(directory: Path, **behaviour: Any) -> Path:
    """Write a checkpoint whose output is the mean of its tokens' rows in `TABLE`.

    behaviour: how it fails: `load` or `encode` names what happens, after `good_calls`.
    """
    checkpoint = directory / "checkpoint"
    checkpoint.mkdir()
    np.save(checkpoint / "table.npy", TABLE)
    (checkpoint / "behaviour.json").write_text(json.dumps(behaviour))
    return checkpoint


def options(python: Path, model: Path, **changes: Any) -> WorkerOptions:
    values: dict[str, Any] = {
        "python": python,
        "model": model,
        "dtype": "bfloat16",
        "max_batch_size": 4,
        "max_num_tokens": 64,
        "max_seq_len": 32,
        "variables": {},
        "load_timeout_s": 60.0,
        "encode_timeout_s": 60.0,
    }
    return WorkerOptions(**values | changes)
