"""What lies in the directory of an engine for TensorRT-LLM, and for which models there is one."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from beicli import __version__
from beicli.artifact.manifest import TensorInfo
from beicli.artifact.tensorrt_llm import Probe
from beicli.artifact.tensorrt_llm import write_probe as write_probe_file
from beicli.builder.backend import Network
from beicli.errors import BuildError
from beicli.model.modelopt import (
    MODELOPT_NAME,
    emulating,
    modelopt_values,
    read_modelopt_config,
)
from beicli.model.spec import ModelSpec, Pooling, Task
from beicli.model.weights import INDEX_NAME, check_weights, list_files
from beicli.modeling.tasks import TaskModule, graph_inputs

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

# As TensorRT-LLM names the classes that it has for them.
EMBEDDER = "Qwen3ForTextEmbedding"
CLASSIFIER = "BertForSequenceClassification"

_SUPPORTED = (
    "Qwen3 embedders that read the last token (`Qwen3ForTextEmbedding`), and BERT classifiers "
    "(`BertForSequenceClassification`)"
)
_PROBE_LENGTHS = (3, 8, 17, 40)


def choose_architecture(spec: ModelSpec) -> str:
    """Return what TensorRT-LLM calls such a model; raises BuildError if it has none."""
    if spec.task is Task.EMBEDDING and spec.model_type == "qwen3":
        if spec.pooling == (Pooling.LAST_TOKEN,) and not spec.dense_modules:
            return EMBEDDER
    elif spec.architecture == CLASSIFIER:
        return CLASSIFIER
    raise BuildError(
        f"TensorRT-LLM does not compute `{spec.architecture}` for {spec.task.value}",
        hint=f"it computes {_SUPPORTED}; use `--backend tensorrt` for this one",
    )


def copy_checkpoint(checkpoint: Path, target: Path, architecture: str) -> None:
    """Copy what TensorRT-LLM reads; raises BuildError if there are no safetensors."""
    names = list_files(checkpoint)
    weights = {*check_weights(checkpoint, names), INDEX_NAME} & names
    if not all(name.endswith((".safetensors", INDEX_NAME)) for name in weights):
        raise BuildError(
            "`--backend tensorrt-llm` computes safetensors, and the checkpoint has only ONNX",
            hint="use `--backend tensorrt`, or build from the checkpoint it was made of",
        )
    target.mkdir(parents=True)
    for name in ("config.json", *sorted(weights), *({MODELOPT_NAME} & names)):
        shutil.copyfile(checkpoint / name, target / name)
    set_architecture(target, architecture)


def set_architecture(target: Path, architecture: str) -> None:
    """Name the class that TensorRT-LLM is to take: a Qwen3 is a language model there otherwise."""
    path = target / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["architectures"] = [architecture]
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def link_emulated(checkpoint: Path, target: Path) -> None:
    """Make a checkpoint of the same files that rounds what its quantised layers are given."""
    target.mkdir()
    for path in checkpoint.iterdir():
        (target / path.name).symlink_to(path.absolute())
    config = read_modelopt_config(checkpoint)
    if config is not None:
        values = modelopt_values(config.algorithm, config.excluded, __version__)
        quantization = target / MODELOPT_NAME
        quantization.unlink(missing_ok=True)
        quantization.write_text(json.dumps(emulating(values)), encoding="utf-8")


def write_probe(network: Network, staging: Path) -> tuple[TensorInfo, ...]:
    """Compute a few sequences in float32, write them down, and describe what comes out."""
    generator = np.random.default_rng(0)
    spec = network.spec
    lengths = [length for length in _PROBE_LENGTHS if length <= spec.max_input_length]
    sequences = [
        generator.integers(0, spec.vocab_size, length, dtype=np.int32) for length in lengths
    ]
    outputs = [_compute(network.module, spec, sequence) for sequence in sequences]
    ids = np.concatenate(sequences)
    probe = Probe(
        input_ids=ids,
        token_type_ids=np.zeros_like(ids),
        cu_seqlens=np.cumsum([0, *lengths], dtype=np.int32),
        outputs=np.stack(outputs),
    )
    write_probe_file(staging, probe)
    name = network.module.output_names[0]
    return (TensorInfo(name=name, dtype="float32", shape=("batch", probe.outputs.shape[1])),)


def _compute(module: TaskModule, spec: ModelSpec, ids: Int32) -> Float32:
    tokens = torch.from_numpy(ids).unsqueeze(0)
    values = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    arguments = [values.get(tensor.name, torch.zeros_like(tokens)) for tensor in graph_inputs(spec)]
    with torch.inference_mode():
        return np.array(module(*arguments)[0][0].numpy(), dtype=np.float32)
