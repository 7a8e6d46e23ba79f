"""Counts what is left to run in the compiled graph of every architecture, and times it.

Random models of two layers, compiled for the CPU in f32. `subgraphs` counts operators that compute
attention as one; `shapes` those that compute sizes and indices, once for every batch. With
`--speed` the models have six layers of 384, as MiniLM, in the precision of this CPU on one thread,
and `times_bert` is what a forward pass takes beside BERT's in the same round, the median of rounds.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tests.builder.architectures import ARCHITECTURES, Architecture
from tests.builder.random_models import save_random

from beicli.artifact.manifest import OPENVINO_MODEL, Precision
from beicli.builder import openvino
from beicli.builder.graph import export_onnx
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module
from beicli.openvino_api import ov

_SHAPES = frozenset(
    {"ShapeOf", "Gather", "Concatenation", "Broadcast", "Range", "Reshape", "Split", "StridedSlice"}
)
_NOTHING = frozenset({"Input", "Output", "Const"})
_LARGE = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "embedding_size": 128,
    "head_dim": 32,
    "num_key_value_heads": 6,
    "sliding_window": 128,
    "local_attention": 128,
    "position_buckets": 256,
    "query_pre_attn_scalar": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "dim": 384,
    "hidden_dim": 1536,
    "n_layers": 6,
    "n_heads": 12,
}
_BATCHES = ((1, 16), (32, 64), (8, 128), (2, 510))
_NUM_ROUNDS = 7


def main() -> None:
    """Print a line of JSON for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as Bert, Qwen3 or Llama-bidirectional")
    parser.add_argument("--types", action="store_true", help="count every type of operator")
    parser.add_argument("--speed", action="store_true", help="time them beside BERT instead")
    options = parser.parse_args()
    chosen = [a for a in ARCHITECTURES if not options.names or str(a) in options.names]
    if options.speed:
        time_all(chosen)
        return
    for architecture in chosen:
        counts = count_operators(compile_random(architecture, "f32"))
        line = {"architecture": str(architecture), "operators": sum(counts.values())}
        line["subgraphs"] = counts["Subgraph"]
        line["shapes"] = sum(counts[kind] for kind in _SHAPES)
        print(json.dumps(line | (dict(counts.most_common()) if options.types else {})))


def time_all(architectures: list[Architecture]) -> None:
    """Print, for each batch size, what each architecture takes beside BERT."""
    precision = openvino.choose_precision(None)
    bert = next(a for a in ARCHITECTURES if str(a) == "Bert")
    reference = compile_random(enlarged(bert), precision).create_infer_request()
    for architecture in architectures:
        request = compile_random(enlarged(architecture), precision).create_infer_request()
        line = {"architecture": str(architecture), "precision": precision}
        for batch_size, length in _BATCHES:
            ratios = [
                forward_s(request, batch_size, length) / forward_s(reference, batch_size, length)
                for _ in range(_NUM_ROUNDS)
            ]
            line[f"times_bert_{batch_size}x{length}"] = round(statistics.median(ratios), 2)
        print(json.dumps(line), flush=True)


def forward_s(request: ov.InferRequest, batch_size: int, length: int) -> float:
    """Return the best of three forward passes, in seconds."""
    inputs = {
        "input_ids": np.full((batch_size, length), 7, dtype=np.int32),
        "attention_mask": np.ones((batch_size, length), dtype=np.int32),
    }
    durations = []
    for _ in range(3):
        started_at = time.perf_counter()
        request.infer(inputs, share_inputs=True)
        durations.append(time.perf_counter() - started_at)
    return min(durations)


def enlarged(architecture: Architecture) -> Architecture:
    """Return the architecture in the size of MiniLM, with a window of 512."""
    config = {key: _LARGE.get(key, value) for key, value in architecture.config.items()}
    return dataclasses.replace(architecture, config=config)


def compile_random(architecture: Architecture, precision: Precision) -> ov.CompiledModel:
    """Build a random model as `bei build` does, as far as the compiler."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        checkpoint = save_random(directory / "checkpoint", architecture, "Model", window=512)
        spec = inspect_checkpoint(checkpoint)
        export_onnx(load_module(checkpoint, spec), spec, directory / "model.onnx")
        openvino.convert(directory / "model.onnx", directory)
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": "1",
        }
        return ov.Core().compile_model(directory / OPENVINO_MODEL, "CPU", options)


def count_operators(compiled: ov.CompiledModel) -> Counter[str]:
    """Return how many operators of each type the plugin runs for one batch."""
    operators = compiled.get_runtime_model().get_ordered_ops()
    kinds = Counter(operator.get_rt_info()["layerType"].value for operator in operators)
    return Counter({kind: count for kind, count in kinds.items() if kind not in _NOTHING})


if __name__ == "__main__":
    main()
