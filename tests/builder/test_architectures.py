"""Every architecture with every head: the compiled graph against transformers, text by text."""

from collections.abc import Mapping
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
from beicli.modeling.tasks import graph_inputs

TOLERANCE = 1e-4
# One token, the whole window, and much padding.
BATCHES = ([1], [WINDOW], [5, 3], [WINDOW, 1, 17], [9, 9, 9])
AUTO_CLASSES = {
    "Model": transformers.AutoModel,
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
    "ForMaskedLM": transformers.AutoModelForMaskedLM,
}


@pytest.mark.parametrize(
    ("architecture", "head"), list(cases()), ids=lambda value: str(value).removeprefix("For")
)
def test_the_compiled_graph_says_what_transformers_says(
    architecture: Architecture, head: str, tmp_path: Path
) -> None:
    checkpoint = save_random(tmp_path / "checkpoint", architecture, head)
    pooling = Pooling.SPLADE if head == "ForMaskedLM" else None
    spec = inspect_checkpoint(checkpoint, pooling=pooling)
    request = compile_f32(load_module(checkpoint, spec), spec, tmp_path)
    # In another implementation of attention than the one that is exported.
    reference = AUTO_CLASSES[head].from_pretrained(checkpoint, attn_implementation="eager")

    for lengths in BATCHES:
        inputs = some_inputs(spec, lengths)
        found = request.infer(inputs, share_inputs=True)
        for row, length in enumerate(lengths):
            alone = {
                name: torch.from_numpy(tensor[row : row + 1, :length]).long()
                for name, tensor in inputs.items()
            }
            with torch.no_grad():
                wanted = answer(reference(**alone), head, architecture)
            given = found[0][row][:length] if head == "ForTokenClassification" else found[0][row]
            np.testing.assert_allclose(given, wanted.numpy(), rtol=0, atol=TOLERANCE)
            assert wanted.abs().max() > 100 * TOLERANCE


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
