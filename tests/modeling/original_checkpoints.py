"""Checkpoints as their authors published them: original keys, original tensor names, random values.

What such a checkpoint comes to is compared with a plain implementation, three times: each text
alone in torch, in a padded batch, and in the compiled graph.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tests.builder.compiling import compile_f32
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling
from beicli.modeling.loading import load_module

WINDOW = 40
HIDDEN_SIZE = 24
# One token, the whole window, and much padding.
BATCHES = ([1], [WINDOW], [5, 3], [WINDOW, 1, 17], [9, 9, 9])

Array = NDArray[np.float64]
Tensors = Mapping[str, Array]
# From one text's token ids to what the first output has of it, or the last of an embedding model.
Reference = Callable[[Tensors, list[int]], Array]


def linear_shapes(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a linear layer's tensors."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a norm's tensors."""
    return {f"{name}.weight": (HIDDEN_SIZE,), f"{name}.bias": (HIDDEN_SIZE,)}


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Draw weights large enough for attention to matter, and norms and biases off their starts."""
    generator = np.random.default_rng(3)
    tensors = {}
    for name, shape in shapes.items():
        is_scale = "norm" in name.lower() or "emb_ln" in name
        start = 1.0 if is_scale and name.endswith("weight") else 0.0
        scale = 0.2 if len(shape) == 1 else shape[-1] ** -0.5
        tensors[name] = start + scale * generator.standard_normal(shape).astype(np.float32)
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


def save_original(directory: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """Save a checkpoint with that `config.json` and those tensors, and a tokenizer."""
    save_checkpoint(directory, tiny_bert())
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": HIDDEN_SIZE, "pooling_mode": "mean"})
    )
    (directory / "config.json").write_text(json.dumps(config))
    save_file(
        {name: torch.from_numpy(tensor).float() for name, tensor in tensors.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    return directory


def assert_computes(
    checkpoint: Path, tensors: Tensors, reference: Reference, *, pooling: Pooling | None = None
) -> None:
    """Compare the checkpoint with the reference, which sees one text at a time."""
    spec = inspect_checkpoint(checkpoint, pooling=pooling)
    module = load_module(checkpoint, spec)
    request = compile_f32(module, spec, checkpoint)
    for lengths in BATCHES:
        ids, mask = _texts(spec, lengths)
        compiled = request.infer([ids, mask], share_inputs=True)
        batch = _infer(module, ids, mask)
        for row, length in enumerate(lengths):
            alone = _infer(module, ids[row : row + 1, :length], mask[row : row + 1, :length])
            wanted = reference(tensors, ids[row, :length].tolist())
            assert np.abs(wanted).max() > 0.01
            given = {1e-5: (alone[-1][0], batch[-1][row]), 1e-4: (compiled[len(batch) - 1][row],)}
            for tolerance, found in given.items():
                for answer in found:
                    cut = answer[:length] if answer.ndim == 2 else answer
                    np.testing.assert_allclose(cut, wanted, rtol=0, atol=tolerance)


def _texts(spec: ModelSpec, lengths: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    generator = np.random.default_rng(5)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = generator.integers(5, spec.vocab_size, mask.shape).astype(np.int32)
    return np.where(mask == 1, tokens, np.int32(spec.pad_token_id)), mask


def _infer(
    module: torch.nn.Module, ids: NDArray[np.int32], mask: NDArray[np.int32]
) -> list[NDArray[np.float32]]:
    with torch.no_grad():
        return [output.numpy() for output in module(torch.from_numpy(ids), torch.from_numpy(mask))]


def layer_norm(states: Array, tensors: Tensors, name: str, epsilon: float) -> Array:
    """Normalise the last axis by the definition."""
    centred = states - states.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    found: Array = centred / deviation * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
    return found


def linear(states: Array, tensors: Tensors, name: str) -> Array:
    """Apply a linear layer; a bias that is not stored is none."""
    found: Array = states @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)
    return found


def gelu(states: Array) -> Array:
    """Apply the exact GELU."""
    erf = torch.erf(torch.from_numpy(states / np.sqrt(2.0))).numpy()
    found: Array = states * (1.0 + erf) / 2.0
    return found


def softmax(scores: Array) -> Array:
    """Turn one row of scores into shares."""
    powers = np.exp(scores - scores.max())
    found: Array = powers / powers.sum()
    return found
