"""Weights that stay as the checkpoint stores them, and are computed with in float32.

A 16 bit checkpoint in float32 is twice its size. Its weights are mapped from the files instead, and
each is widened when a layer reads it, which changes no number: float32 holds every 16 bit one.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.utils import parametrize
from transformers.initialization import no_init_weights

from beicli.model.files import CheckpointFile
from beicli.model.remote_code.jina_v3 import is_flash
from beicli.model.weights import check_weights, list_files

_HALF = {"BF16": torch.bfloat16, "F16": torch.float16}


def stored_dtype(directory: Path) -> torch.dtype:
    """Return what all the weights of a checkpoint are stored in, float32 if they differ.

    Raises OSError or SafetensorError if the files cannot be read.
    """
    names = _stored_types(directory)
    return _HALF.get(names.pop(), torch.float32) if len(names) == 1 else torch.float32


def are_mapped(directory: Path) -> bool:
    """Whether the weights are computed with where they lie, rather than from memory."""
    is_translated = is_flash(CheckpointFile.read(directory, "config.json").values)
    return not is_translated and len(_stored_types(directory)) == 1


def _stored_types(directory: Path) -> set[str]:
    """Return the kinds of floating-point numbers; ids of positions are stored beside them."""
    names = set()
    for file_name in check_weights(directory, list_files(directory)):
        with safe_open(directory / file_name, framework="pt") as file:
            names |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return {name for name in names if name.startswith(("F", "BF"))}


def in_float32(model: Any) -> Any:
    """Return a model that computes in float32 with the weights of `model`, a 16 bit one.

    Whatever a model makes of its configuration, such as a factor or the frequencies of positions,
    depends on the precision it is made in. So it is made anew, and takes over the weights only.
    """
    with no_init_weights():
        made = type(model)._from_config(  # noqa: SLF001 - what `AutoModel.from_config` calls
            model.config,
            dtype=torch.float32,
            attn_implementation=model.config._attn_implementation,  # noqa: SLF001
        )
    given = dict(model.named_modules())
    for path, module in list(made.named_modules()):
        for name, weight in given[path].named_parameters(recurse=False):
            module.register_parameter(name, weight)
            if weight.dtype in _HALF.values():
                parametrize.register_parametrization(module, name, _Widened(), unsafe=True)
        for name, buffer in given[path].named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:  # noqa: SLF001 - no other way to tell
                is_half = buffer.dtype in _HALF.values()
                module.register_buffer(name, buffer.to(torch.float32) if is_half else buffer)
        if type(given[path]) is torch.nn.Embedding:
            # Otherwise the whole table is widened for a few of its rows.
            module.forward = functools.partial(_embed, given[path])
    return made


class _Widened(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(torch.float32)


def _embed(table: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.embedding(ids, table.weight).to(torch.float32)
