"""Heads are loaded as transformers loads them, and never made up where they are missing."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import SparseEncoder
from tests.builder.tiny_models import (
    save_checkpoint,
    save_model,
    save_splade,
    tiny_bert,
    tiny_classifier,
    tiny_qwen3_reranker,
    tiny_token_classifier,
)
from tests.modeling.test_loading import change_config, change_weights, without

from beicli.builder.texts import GOLDEN_TEXTS
from beicli.errors import BuildError
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import CausalClassificationModule, TaskModule

TOLERANCE = 1e-5
IDS = torch.tensor([[2, 40, 50, 3, 60, 70, 3]], dtype=torch.int32)
ONES = torch.ones_like(IDS)
TYPES = torch.tensor([[0, 0, 0, 0, 1, 1, 1]], dtype=torch.int32)


def load(checkpoint: Path) -> TaskModule:
    return load_module(checkpoint, inspect_checkpoint(checkpoint))


def run(module: TaskModule, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(*inputs)[0]


def test_a_classifier_says_what_transformers_says(tmp_path: Path) -> None:
    reference = tiny_classifier("A", "B", "C")
    module = load(save_model(tmp_path / "classifier", reference))

    with torch.no_grad():
        expected = reference(IDS, ONES, token_type_ids=TYPES).logits

    torch.testing.assert_close(run(module, IDS, ONES, TYPES), expected, rtol=0, atol=TOLERANCE)
    without_types = run(module, IDS, ONES, torch.zeros_like(TYPES))
    assert (without_types - expected).abs().max() > 100 * TOLERANCE


def test_a_token_classifier_says_what_transformers_says(tmp_path: Path) -> None:
    reference = tiny_token_classifier("O", "B-PER")
    module = load(save_model(tmp_path / "tokens", reference))

    with torch.no_grad():
        expected = reference(IDS, ONES).logits

    assert expected.shape == (1, 7, 2)
    torch.testing.assert_close(run(module, IDS, ONES), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pad_token_id", [None, 0, 3])
def test_a_causal_classifier_answers_at_the_last_token_whatever_the_padding_id(
    tmp_path: Path, pad_token_id: int | None
) -> None:
    reference = tiny_qwen3_reranker("no", "yes")
    checkpoint = save_model(tmp_path / "causal", reference)
    change_config(checkpoint, pad_token_id=pad_token_id)
    module = load(checkpoint)

    with torch.no_grad():
        # Alone and without a padding id, transformers takes the last token as well.
        expected = reference(IDS, ONES).logits

    assert isinstance(module, CausalClassificationModule)
    torch.testing.assert_close(run(module, IDS, ONES), expected, rtol=0, atol=TOLERANCE)
    ids = torch.nn.functional.pad(IDS, (0, 4), value=9).repeat(2, 1)
    mask = torch.nn.functional.pad(ONES, (0, 4)).repeat(2, 1)
    torch.testing.assert_close(
        run(module, ids, mask), expected.repeat(2, 1), rtol=0, atol=TOLERANCE
    )


def test_sparse_weights_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    checkpoint = save_splade(tmp_path / "splade")
    module = load(checkpoint)
    reference = SparseEncoder(str(checkpoint), device="cpu", local_files_only=True)

    for text in GOLDEN_TEXTS:
        encoded = reference.tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        weights = run(module, encoded["input_ids"], encoded["attention_mask"])[0]

        expected = reference.encode(text, show_progress_bar=False, convert_to_sparse_tensor=False)
        torch.testing.assert_close(weights, expected, rtol=0, atol=TOLERANCE)
        assert (weights > 0).any()


def test_a_decoder_tied_to_the_embeddings_need_not_be_saved(tmp_path: Path) -> None:
    checkpoint = save_splade(tmp_path / "splade")
    expected = run(load(checkpoint), IDS, ONES)
    change_weights(checkpoint, without("cls.predictions.decoder"))

    torch.testing.assert_close(run(load(checkpoint), IDS, ONES), expected)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("BertForSequenceClassification", "classifier.bias"),
        ("BertForTokenClassification", "classifier.bias"),
    ],
)
def test_a_classifier_without_its_head_is_refused(
    tmp_path: Path, architecture: str, name: str
) -> None:
    checkpoint = save_checkpoint(tmp_path / "headless", tiny_bert())
    change_config(checkpoint, architectures=[architecture], id2label={"0": "A", "1": "B"})

    with pytest.raises(BuildError, match="missing or of another shape") as raised:
        load(checkpoint)

    assert "with 2 labels" in raised.value.message
    assert f"such as `{name}`" in raised.value.message


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("score", "score.weight"),
        ("model.norm", "model.norm.weight"),
    ],
)
def test_a_causal_classifier_that_lacks_a_part_is_refused(
    tmp_path: Path, part: str, name: str
) -> None:
    checkpoint = save_model(tmp_path / "causal", tiny_qwen3_reranker("no", "yes"))
    change_weights(checkpoint, without(part))

    with pytest.raises(BuildError, match=f"such as `{name}`"):
        load(checkpoint)


def test_a_masked_language_model_without_its_head_is_refused(tmp_path: Path) -> None:
    checkpoint = save_splade(tmp_path / "splade")
    change_weights(checkpoint, without("cls.predictions.transform"))

    with pytest.raises(BuildError, match=r"such as `cls\.predictions\.transform"):
        load(checkpoint)


def test_the_pooler_that_a_classifier_uses_is_missed(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "classifier", tiny_classifier("A", "B"))
    change_weights(checkpoint, without("pooler"))

    with pytest.raises(BuildError, match=r"such as `bert\.pooler\.dense\.bias`"):
        load(checkpoint)


def test_more_labels_than_the_head_has_outputs_are_refused(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "classifier", tiny_classifier("A", "B"))
    change_config(checkpoint, id2label={"0": "A", "1": "B", "2": "C"})

    with pytest.raises(BuildError, match=r"with 3 labels: 2 are .* such as `classifier\.bias`"):
        load(checkpoint)
