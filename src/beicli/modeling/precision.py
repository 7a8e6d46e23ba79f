"""Puts a loaded network into the precision that it serves in."""

import itertools

import torch
from torch.nn.utils import parametrize

from beicli.modeling.tasks import TaskModule


def convert(module: TaskModule, dtype: torch.dtype) -> None:
    """Convert the weights of a module that `load_module` gave, and let it compute with them.

    What a network computes for itself stays in float32, as transformers keeps it: the frequencies
    of rotary embeddings, rounded to bf16, would move the far positions of a long text.
    """
    for part in list(module.modules()):
        _stop_widening(part)
    stored = module.state_dict().keys()
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        if name in stored and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _stop_widening(part: torch.nn.Module) -> None:
    """Undo `stored_weights.in_float32`, which widens a 16 bit weight at each pass over a text."""
    if parametrize.is_parametrized(part):
        for name in list(part.parametrizations):
            parametrize.remove_parametrizations(part, name, leave_parametrized=False)
    if isinstance(part, torch.nn.Embedding):
        vars(part).pop("forward", None)
