"""Every architecture with every head, against transformers, text by text.

Every architecture is exported and compiled as an embedding model. Its other heads are a product or
two on top of the same network: those of a few architectures are exported as well, one for each kind
of head, the others are compared as torch computes them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.builder.architectures import WINDOW, Architecture, cases
from tests.builder.compiling import compile_f32
from tests.builder.random_models import save_random

from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import TaskModule, graph_inputs

Compute = Callable[[Mapping[str, Any]], Any]

TOLERANCE = 1e-4
# One token, the whole window, and much padding.
BATCHES = ([1], [WINDOW], [5, 3], [WINDOW, 1, 17], [9, 9, 9])
AUTO_CLASSES = {
    "Model": transformers.AutoModel,
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
    "ForMaskedLM": transformers.AutoModelForMaskedLM,
}


# One for each kind of head that transformers has: a pooler, none, a norm, a pooler of its own, an
# adapter, and that of decoders.
EXPORTED_WITH_EVERY_HEAD = {
    *("Bert", "Roberta", "ModernBert", "DebertaV2", "JinaEmbeddingsV3", "Qwen3"),
}


@pytest.mark.parametrize(
    ("architecture", "head"), list(cases()), ids=lambda value: str(value).removeprefix("For")
)
def test_the_network_says_what_transformers_says(
    architecture: Architecture, head: str, tmp_path: Path
) -> None:
    checkpoint = save_random(tmp_path / "checkpoint", architecture, head)
    pooling = Pooling.SPLADE if head == "ForMaskedLM" else None
    spec = inspect_checkpoint(checkpoint, pooling=pooling)
    module = load_module(checkpoint, spec)
    is_exported = head == "Model" or str(architecture) in EXPORTED_WITH_EVERY_HEAD
    compute = compiled(module, spec, tmp_path) if is_exported else partial(in_torch, module)
    # In another implementation of attention than the one that is exported.
    reference = AUTO_CLASSES[head].from_pretrained(checkpoint, attn_implementation="eager")

    for lengths in BATCHES:
        inputs = some_inputs(spec, lengths)
        found = compute(inputs)
        for row, length in enumerate(lengths):
            alone = {
                name: torch.from_numpy(tensor[row : row + 1, :length]).long()
                for name, tensor in inputs.items()
            }
            with torch.no_grad():
                wanted = answer(reference(**alone), head, architecture)
            given = found[row][:length] if head == "ForTokenClassification" else found[row]
            np.testing.assert_allclose(given, wanted.numpy(), rtol=0, atol=TOLERANCE)
            assert wanted.abs().max() > 100 * TOLERANCE


def compiled(module: TaskModule, spec: ModelSpec, directory: Path) -> Compute:
    request = compile_f32(module, spec, directory)
    return lambda inputs: request.infer(dict(inputs), share_inputs=True)[0]


def in_torch(module: TaskModule, inputs: Mapping[str, Any]) -> Any:
    with torch.no_grad():
        return module(*map(torch.from_numpy, inputs.values()))[0].numpy()


def some_inputs(spec: ModelSpec, lengths: list[int]) -> Mapping[str, Any]:
    generator = np.random.default_rng(5)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = generator.integers(5, spec.vocab_size, mask.shape).astype(np.int32)
    given = {
        "input_ids": np.where(mask == 1, tokens, np.int32(spec.pad_token_id)),
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, mask.shape).astype(np.int32) * mask,
    }
    return {tensor.name: given[tensor.name] for tensor in graph_inputs(spec)}


def answer(output: Any, head: str, architecture: Architecture) -> torch.Tensor:
    """Return what a text alone, without any padding, comes to by the definition of its head."""
    match head:
        case "Model":
            hidden = output.last_hidden_state[0]
            return hidden[-1] if architecture.pooling == "lasttoken" else hidden.mean(dim=0)
        case "ForMaskedLM":
            return torch.log1p(torch.relu(output.logits[0])).amax(dim=0)
        case _:
            logits: torch.Tensor = output.logits[0]
            return logits
