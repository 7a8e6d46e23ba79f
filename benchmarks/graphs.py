"""Counts what is left to run in the compiled graph of every architecture.

Random models of two layers, compiled for the CPU in f32. `attention` counts operators that compute
attention as one; `shapes` those that compute sizes and indices, once for every batch.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

from tests.builder.architectures import ARCHITECTURES
from tests.builder.random_models import save_random

from beicli.artifact.manifest import OPENVINO_MODEL
from beicli.builder import openvino
from beicli.builder.graph import export_onnx
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module
from beicli.openvino_api import ov

_ATTENTION = frozenset({"ScaledDotProductAttentionWithKVCache", "ScaledDotProductAttention"})
_SHAPES = frozenset(
    {"ShapeOf", "Gather", "Concatenation", "Broadcast", "Range", "Reshape", "Split", "StridedSlice"}
)
_NOTHING = frozenset({"Input", "Output", "Const"})


def main() -> None:
    """Print a line of JSON for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as Bert, Qwen3 or Llama-bidirectional")
    parser.add_argument("--types", action="store_true", help="count every type of operator")
    options = parser.parse_args()
    for architecture in ARCHITECTURES:
        if options.names and str(architecture) not in options.names:
            continue
        with tempfile.TemporaryDirectory() as name:
            checkpoint = save_random(Path(name) / "checkpoint", architecture, "Model")
            counts = count_operators(checkpoint, Path(name))
        line = {"architecture": str(architecture), "operators": sum(counts.values())}
        line["attention"] = sum(counts[kind] for kind in _ATTENTION)
        line["shapes"] = sum(counts[kind] for kind in _SHAPES)
        print(json.dumps(line | (dict(counts.most_common()) if options.types else {})))


def count_operators(checkpoint: Path, directory: Path) -> Counter[str]:
    """Return how many operators of each type the plugin runs for one batch."""
    spec = inspect_checkpoint(checkpoint)
    export_onnx(load_module(checkpoint, spec), spec, directory / "model.onnx")
    openvino.convert(directory / "model.onnx", directory)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(directory / OPENVINO_MODEL, "CPU", options)
    operators = compiled.get_runtime_model().get_ordered_ops()
    kinds = Counter(operator.get_rt_info()["layerType"].value for operator in operators)
    return Counter({kind: count for kind, count in kinds.items() if kind not in _NOTHING})


if __name__ == "__main__":
    main()
