"""Llama's trained weights as Mistral and Qwen2: another code path, the same numbers."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.models.checkpoint import (
    CONFIG_FILE_NAME,
    WEIGHTS_FILE_NAME,
    copy_companions,
    read_json,
    write_json,
)


def write_mistral(sources: Mapping[str, Path], output: Path) -> None:
    """Mistral without its sliding window is Llama."""
    (source,) = sources.values()
    _write_config(source, output, model_type="mistral", class_prefix="Mistral")
    (output / WEIGHTS_FILE_NAME).write_bytes((source / WEIGHTS_FILE_NAME).read_bytes())


def write_qwen2(sources: Mapping[str, Path], output: Path) -> None:
    """Qwen2 is Llama with biases on query, key and value; here they are zero."""
    (source,) = sources.values()
    _write_config(source, output, model_type="qwen2", class_prefix="Qwen2")
    weights = load_file(source / WEIGHTS_FILE_NAME)
    biases = {
        name.removesuffix("weight") + "bias": torch.zeros_like(weight[:, 0])
        for name, weight in weights.items()
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    }
    save_file({**weights, **biases}, output / WEIGHTS_FILE_NAME, metadata={"format": "pt"})


def _write_config(source: Path, output: Path, *, model_type: str, class_prefix: str) -> None:
    copy_companions(source, output)
    config = read_json(source / CONFIG_FILE_NAME)
    config["model_type"] = model_type
    config["architectures"] = [
        name.replace("Llama", class_prefix) for name in config["architectures"]
    ]
    config["sliding_window"] = None
    write_json(output / CONFIG_FILE_NAME, config)
