"""Weights of Jina's XLM-RoBERTa under the names that load, with one adapter merged into them.

Source: `XLMRobertaLoRA` of jinaai/xlm-roberta-flash-implementation. A merged weight is W + s·B·A,
with s the file's `lora_alpha` over `lora_rank`; an embedding table is W + s·A·B.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from beicli.errors import BuildError
from beicli.model.adapters import adapters_of
from beicli.model.files import CheckpointFile
from beicli.model.weights import check_weights, list_files

_ORIGINAL = ".parametrizations.weight.original"
_A, _B = ".parametrizations.weight.0.lora_A", ".parametrizations.weight.0.lora_B"
# From Jina's names to those of transformers' `xlm-roberta`; its `jina_embeddings_v3` reads them so.
_ROBERTA_NAMES = (
    (r"\bemb_ln\.", "embeddings.LayerNorm."),
    (r"\bencoder\.layers\.", "encoder.layer."),
    (r"\.mixer\.out_proj\.", ".attention.output.dense."),
    (r"\.norm1\.", ".attention.output.LayerNorm."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm2\.", ".output.LayerNorm."),
)
_FUSED = ".mixer.Wqkv."
_PARTS = ("query", "key", "value")


def read_flash_weights(
    directory: Path, *, adapter: str | None, model_type: str
) -> dict[str, torch.Tensor]:
    """Return the tensors of the checkpoint by the names of `model_type`.

    adapter: merged into the weights; None leaves them as they are. Raises BuildError if the files
    lack a part of it, OSError or SafetensorError if they cannot be read.
    """
    config = CheckpointFile.read(directory, "config.json")
    index = None if adapter is None else adapters_of(config).index(adapter)
    rank = 1 if index is None else config.require_count("lora_rank")
    scale = float(config.values.get("lora_alpha") or 1) / rank
    with ExitStack() as stack:
        files = [
            stack.enter_context(safe_open(directory / name, framework="pt"))
            for name in check_weights(directory, list_files(directory))
        ]
        owners = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no dict
        tensors = dict(_merged(owners, index, scale))
    if model_type == "xlm-roberta":
        return dict(_as_roberta(tensors))
    return tensors


def _merged(
    owners: dict[str, Any], index: int | None, scale: float
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, file in owners.items():
        if name.endswith((_A, _B)):
            continue
        weight = file.get_tensor(name)
        stem = name.removesuffix(_ORIGINAL)
        if stem == name:
            yield name, weight
            continue
        if index is not None:
            a, b = (_slice(owners, stem + part, index) for part in (_A, _B))
            is_table = (a.shape[0], b.shape[1]) == weight.shape
            left, right = (a, b) if is_table else (b, a)
            # In float32: a product of 16 bit numbers would be rounded before it is added.
            weight = weight.float() + scale * (left.float() @ right.float())
        yield f"{stem}.weight", weight


def _slice(owners: dict[str, Any], name: str, index: int) -> torch.Tensor:
    if name not in owners:
        raise BuildError(
            f"the safetensors do not hold `{name}`, a part of the adapters",
            hint="fetch the checkpoint again, or choose another revision of it",
        )
    return owners[name].get_slice(name)[index]


def _as_roberta(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in _ROBERTA_NAMES:
            new = re.sub(pattern, replacement, new)
        if _FUSED not in new:
            yield new, tensor
            continue
        for part, chunk in zip(_PARTS, tensor.chunk(3), strict=True):
            yield new.replace(_FUSED, f".attention.self.{part}."), chunk
