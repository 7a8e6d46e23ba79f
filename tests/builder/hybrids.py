"""Tiny checkpoints as graphs in the hybrid layout, and what they are to compute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.builder.architectures import ARCHITECTURES
from tests.builder.random_models import save_random

from beicli.artifact.manifest import TOKEN_OUTPUTS, TensorInfo
from beicli.builder.hybrid import export_hybrid_onnx
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import TaskModule, graph_inputs

Array = NDArray[Any]
# Fused attention begins with heads of 16 numbers, and the table's are half of that.
_SIZES = {"hidden_size": 64, "head_dim": 16, "dim": 64, "query_pre_attn_scalar": 16}


@dataclass(frozen=True, slots=True)
class Hybrid:
    """A checkpoint's module, and its graph in float32 at `path`, which takes `inputs`."""

    spec: ModelSpec
    module: TaskModule
    path: Path
    inputs: tuple[TensorInfo, ...]

    def given(self, lengths: Sequence[int], *, num_filled: int = 0) -> dict[str, Array]:
        """Make up sequences and lay them out by hand; num_filled: tokens behind them of none."""
        generator = np.random.default_rng(3)
        num_tokens, longest = sum(lengths), max(lengths)
        pad_index = np.zeros((len(lengths), longest), np.int32)
        unpad_index: list[int] = []
        positions: list[int] = []
        for row, length in enumerate(lengths):
            start = sum(lengths[:row])
            pad_index[row, :length] = range(start, start + length)
            unpad_index += range(row * longest, row * longest + length)
            positions += range(length)
        filler = [0] * num_filled
        made = {
            "input_ids": generator.integers(5, self.spec.vocab_size, (1, num_tokens + num_filled)),
            "position_ids": np.array([positions + filler]),
            "pad_index": pad_index,
            "unpad_index": np.array(unpad_index + filler),
            "lengths": np.array(lengths),
            "token_type_ids": generator.integers(0, 2, (1, num_tokens + num_filled)),
        }
        return {tensor.name: made[tensor.name].astype(np.int32) for tensor in self.inputs}

    def alone(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Return what torch says of each sequence alone, rows of all end to end."""
        lengths = given["lengths"].tolist()
        names = [each.name for each in graph_inputs(self.spec) if each.name != "attention_mask"]
        rows = []
        for row, length in enumerate(lengths):
            start = sum(lengths[:row])
            ids, *types = (
                torch.from_numpy(given[name][:, start : start + length]) for name in names
            )
            with torch.no_grad():
                rows.append(self.module(ids, torch.ones_like(ids), *types))
        return {
            name: np.concatenate([row[number].flatten(0, -2).numpy() for row in rows])
            for number, name in enumerate(self.module.output_names)
        }


def without_filler(outputs: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
    num_tokens = int(given["lengths"].sum())
    return {
        name: values[:num_tokens] if name in TOKEN_OUTPUTS else values
        for name, values in outputs.items()
    }


def make_hybrid(name: str, head: str, directory: Path) -> Hybrid:
    """Export a random model of an architecture of the table, its heads as wide as kernels want."""
    (architecture,) = (each for each in ARCHITECTURES if str(each) == name)
    config = {key: _SIZES.get(key, value) for key, value in architecture.config.items()}
    checkpoint = save_random(directory / "checkpoint", replace(architecture, config=config), head)
    pooling = Pooling.SPLADE if head == "ForMaskedLM" else None
    spec = inspect_checkpoint(checkpoint, pooling=pooling)
    module = load_module(checkpoint, spec)
    path = directory / "model.onnx"
    _, inputs = export_hybrid_onnx(module, spec, path)
    return Hybrid(spec, module, path, inputs)
