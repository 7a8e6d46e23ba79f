"""Builds for GPUs in the layout `hybrid`, judged over real batches and compiled for real GPUs."""

from pathlib import Path

import pytest
import torch
import transformers
from tests.builder.builds import Recorder, run_build, with_accelerator, with_build, write_config
from tests.builder.tiny_models import (
    MAX_POSITIONS,
    save_checkpoint,
    save_model,
    tiny_mpnet,
    vocab_size,
)

from beicli.artifact.gpu import PLANS_DIRECTORY
from beicli.builder.build import BuildResult
from beicli.errors import BuildError

# TensorRT has fused attention from 16 numbers a head.
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def save_bert(directory: Path, *, is_token_classifier: bool = False) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **_SIZES, vocab_size=vocab_size(), max_position_embeddings=MAX_POSITIONS
    )
    if not is_token_classifier:
        return save_checkpoint(directory, transformers.BertModel(config))
    config.num_labels = 3
    return save_model(directory, transformers.BertForTokenClassification(config))


def check(result: BuildResult) -> None:
    """See that it passed, and that its plan is there and takes what the manifest says."""
    manifest = result.artifact.manifest
    assert result.report.passed
    assert manifest.gpu is not None
    assert manifest.gpu.layout == "hybrid"
    shapes = {tensor.name: tensor.shape for tensor in manifest.inputs}
    assert shapes["input_ids"] == (1, "tokens")
    assert shapes["pad_index"] == ("batch", "length")
    assert len([*(result.artifact.path / PLANS_DIRECTORY).glob("*.plan")]) == 1


@pytest.mark.parametrize("is_token_classifier", [False, True])
def test_an_engine_in_16_bit_is_judged_and_compiled(
    tmp_path: Path, *, is_token_classifier: bool
) -> None:
    pytest.importorskip("tensorrt_rtx")
    checkpoint = save_bert(tmp_path / "checkpoint", is_token_classifier=is_token_classifier)
    loaded = write_config(tmp_path, checkpoint)

    result = run_build(loaded, tmp_path / "engine", precision=None, sm=89, layout="hybrid")

    check(result)
    manifest = result.artifact.manifest
    assert manifest.precision == "f16"
    assert {tensor.name: tensor.shape for tensor in manifest.outputs} == (
        {"token_logits": ("tokens", 3)}
        if is_token_classifier
        else {"embeddings": ("batch", 32), "token_embeddings": ("tokens", 32)}
    )


def test_an_engine_in_8_bit_is_calibrated_on_tokens_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    loaded = write_config(tmp_path, save_bert(tmp_path / "checkpoint"))
    loaded = with_build(with_accelerator(loaded, "L4"), quantization_type="fp8")
    progress = Recorder()

    result = run_build(
        loaded,
        tmp_path / "engine",
        precision=None,
        sm=89,
        layout="hybrid",
        progress=progress,
    )

    check(result)
    assert result.artifact.manifest.precision == "fp8"
    assert "Quantized" in progress.finished_steps


def test_a_network_that_cannot_be_laid_out_so_ends_the_build(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_mpnet())
    loaded = write_config(tmp_path, checkpoint)

    with pytest.raises(BuildError, match="attention of `mpnet`") as caught:
        run_build(loaded, tmp_path / "engine", precision=None, sm=89, layout="hybrid")

    assert caught.value.hint == "build it with `--layout padded`"
    assert not (tmp_path / "engine").exists()
