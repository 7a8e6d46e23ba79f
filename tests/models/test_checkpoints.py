"""The converted checkpoints against each other, in the library they were published for."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

pytestmark = pytest.mark.models

_TEXTS = (
    "A man is eating food.",
    "Uma mulher está a tocar violino, e o público aplaude no fim; depois todos vão para casa.",
    "Hi",
)


def _hidden_states(checkpoint: Path) -> torch.Tensor:
    """The padded batch's last hidden states at real tokens: [num_tokens, hidden_size]."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    encoded = tokenizer(list(_TEXTS), padding=True, return_tensors="pt")
    assert encoded["attention_mask"].sum() < encoded["attention_mask"].numel()
    with torch.no_grad():
        hidden: torch.Tensor = model(**encoded).last_hidden_state
    return hidden[encoded["attention_mask"].bool()]


def _assert_equal(checkpoint: Path, relabelled: Path) -> None:
    expected, found = _hidden_states(checkpoint), _hidden_states(relabelled)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_minilm_gives_the_same_vectors_as_roberta(
    minilm_checkpoint: Path, models_directory: Path
) -> None:
    _assert_equal(minilm_checkpoint, models_directory / "roberta-minilm")


def test_e5_gives_the_same_vectors_as_bert_and_as_xlm_roberta(models_directory: Path) -> None:
    _assert_equal(models_directory / "bert-e5-small", models_directory / "xlmr-e5-small")


@pytest.mark.parametrize(
    ("checkpoint", "relabelled"),
    [("splade-bert-tiny", "splade-roberta"), ("rampart-ner", "rampart-xlmr")],
)
def test_the_heads_give_the_same_vectors_under_both_architectures(
    checkpoint: str, relabelled: str, models_directory: Path
) -> None:
    _assert_equal(models_directory / checkpoint, models_directory / relabelled)


@pytest.mark.parametrize(
    ("checkpoint", "relabelled"),
    [
        ("smollm2-135m", "smollm2-mistral"),
        ("smollm2-135m", "smollm2-qwen2"),
    ],
)
def test_the_larger_set_gives_the_same_vectors_under_both_architectures(
    checkpoint: str, relabelled: str, models_directory: Path
) -> None:
    if not (models_directory / relabelled).exists():
        pytest.skip(f"{relabelled} is not there; run `python -m tests.models --all`")

    _assert_equal(models_directory / checkpoint, models_directory / relabelled)
