"""How batches are laid out for a GPU: each function gives what a build needs for one layout."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.gpu import Layout
from beicli.artifact.manifest import TOKEN_OUTPUTS, TensorInfo
from beicli.builder.graph import export_onnx
from beicli.builder.hybrid import export_hybrid_onnx
from beicli.model.spec import ModelSpec
from beicli.modeling.hybrid import hybrid_inputs
from beicli.modeling.tasks import TaskModule, graph_inputs

Sample = Mapping[str, NDArray[np.int32]]


def export_graph(layout: Layout, module: TaskModule, spec: ModelSpec, path: Path) -> int:
    """Write the module's ONNX graph in float32; return its opset. Raises BuildError."""
    if layout == "padded":
        return export_onnx(module, spec, path)
    opset, _ = export_hybrid_onnx(module, spec, path)
    return opset


def layout_inputs(layout: Layout, spec: ModelSpec) -> tuple[TensorInfo, ...]:
    """Return what that graph takes."""
    return graph_inputs(spec) if layout == "padded" else hybrid_inputs(spec)


def layout_outputs(layout: Layout, outputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Return what it gives out, with the right names of dimensions; outputs: what was found."""
    if layout == "padded":
        return tuple(outputs)
    return tuple(
        replace(each, shape=("tokens", *each.shape[1:])) if each.name in TOKEN_OUTPUTS else each
        for each in outputs
    )


def layout_samples(layout: Layout, samples: Sequence[Sample]) -> list[Sample]:
    """Return samples as the graph takes them; samples: of a padded one, each [1, num_tokens]."""
    return list(samples) if layout == "padded" else [_hybrid_sample(each) for each in samples]


def _hybrid_sample(sample: Sample) -> Sample:
    num_tokens = sample["input_ids"].shape[1]
    places = np.arange(num_tokens, dtype=np.int32)
    inputs = {name: values for name, values in sample.items() if name != "attention_mask"}
    return inputs | {
        "position_ids": places[None],
        "pad_index": places[None],
        "unpad_index": places,
        "lengths": np.array([num_tokens], dtype=np.int32),
    }
