"""Builds for TensorRT-LLM: what it is given, and what of it a CPU can check."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.builder.builds import Recorder, run_build, write_config
from tests.builder.tiny_models import (
    Dense,
    save_checkpoint,
    save_model,
    tiny_bert,
    tiny_classifier,
    tiny_qwen3,
    tiny_qwen3_reranker,
)

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest
from beicli.artifact.report import COMPUTED_BY_EMULATION
from beicli.artifact.tensorrt_llm import LLM_CHECKPOINT, read_probe
from beicli.builder.build import BuildResult
from beicli.builder.llm_files import link_emulated
from beicli.errors import BuildError, UsageError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.modelopt import read_modelopt_config
from beicli.modeling.loading import load_module


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beicli.engine.torch.available_cpus", lambda: 1)


@pytest.fixture
def embedder(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "qwen3", tiny_qwen3(), pooling="lasttoken")


def build(
    checkpoint: Path,
    *,
    progress: Recorder | None = None,
    precision: str | None = None,
    **section: Any,
) -> BuildResult:
    directory = checkpoint.parent
    loaded = write_config(directory, checkpoint, base_model="encoder", **section)
    return run_build(
        loaded,
        directory / "engine",
        backend="tensorrt-llm",
        precision=precision,
        progress=progress,
    )


def reopened(result: BuildResult) -> Manifest:
    return EngineArtifact.open(result.artifact.path).manifest


def test_an_embedder_is_copied_under_the_name_that_tensorrt_llm_has_for_it(embedder: Path) -> None:
    progress = Recorder()

    result = build(embedder, progress=progress)

    manifest = reopened(result)
    copied = result.artifact.path / LLM_CHECKPOINT
    assert (manifest.backend, manifest.precision, manifest.gpu) == ("tensorrt-llm", "bf16", None)
    assert json.loads((copied / "config.json").read_text())["architectures"] == [
        "Qwen3ForTextEmbedding"
    ]
    weights = "model.safetensors"
    assert (copied / weights).read_bytes() == (embedder / weights).read_bytes()
    assert progress.started_steps == ["Fetched", "Inspected", "Loaded", "Copied", "Checked"]
    assert progress.details["Copied"] == "TensorRT-LLM, Qwen3ForTextEmbedding, bf16"
    assert result.report.computed_by == COMPUTED_BY_EMULATION
    assert not (result.artifact.path / "emulation").exists()


def test_the_probe_holds_what_the_network_gives_in_float32(embedder: Path) -> None:
    result = build(embedder)

    probe = read_probe(result.artifact.path)
    module = load_module(embedder, inspect_checkpoint(embedder))
    for index, (start, end) in enumerate(
        zip(probe.cu_seqlens[:-1], probe.cu_seqlens[1:], strict=True)
    ):
        tokens = torch.from_numpy(probe.input_ids[start:end]).unsqueeze(0)
        with torch.inference_mode():
            expected = module(tokens, torch.ones_like(tokens))[0][0].numpy()
        np.testing.assert_allclose(probe.outputs[index], expected, atol=1e-6)
    assert probe.error(probe.outputs) == 0
    assert probe.error(1.1 * probe.outputs) == pytest.approx(0.1, rel=1e-4)
    assert probe.error(probe.outputs[:, :-1]) == float("inf")


def test_a_bert_classifier_is_in_f16_whatever_is_asked(tmp_path: Path) -> None:
    result = build(save_model(tmp_path / "bert", tiny_classifier("A", "B", "C")), precision="bf16")

    manifest = reopened(result)
    assert manifest.precision == "f16"
    assert [tensor.shape for tensor in manifest.outputs] == [("batch", 3)]


@pytest.mark.parametrize(
    ("quantization", "precision", "num_layers"),
    [
        ("fp8_kv", "fp8", 14),
        ("fp4_mlp_only", "fp4", 6),
    ],
)
def test_an_embedder_is_written_in_8_or_4_bit(
    embedder: Path, quantization: str, precision: str, num_layers: int
) -> None:
    progress = Recorder()

    result = build(embedder, progress=progress, quantization_type=quantization)

    manifest = reopened(result)
    assert manifest.precision == precision
    described = manifest.quantization
    assert described is not None
    is_static = precision == "fp8"
    assert described.method == quantization.removesuffix("_kv")
    assert len(described.static if is_static else described.dynamic) == num_layers
    assert (described.quantized_fraction == 1.0) == (num_layers == 14)
    copied = result.artifact.path / LLM_CHECKPOINT
    tensors = load_file(copied / "model.safetensors")
    stored = tensors["layers.0.mlp.up_proj.weight"].dtype
    assert stored == (torch.float8_e4m3fn if is_static else torch.uint8)
    assert (copied / "hf_quant_config.json").is_file()
    assert json.loads((copied / "config.json").read_text())["architectures"] == [
        "Qwen3ForTextEmbedding"
    ]
    algorithm = "FP8" if is_static else "NVFP4"
    assert progress.details["Quantised"] == f"{num_layers} linear layers in {algorithm}"


def test_a_quantised_checkpoint_is_used_as_it_is(embedder: Path) -> None:
    made = build(embedder, quantization_type="fp8").artifact.path / LLM_CHECKPOINT
    for path in made.iterdir():
        (embedder / path.name).write_bytes(path.read_bytes())
    again = embedder.parent / "again"
    again.mkdir()
    moved = embedder.rename(again / "qwen3")

    result = build(moved)

    manifest = reopened(result)
    assert manifest.precision == "fp8"
    assert manifest.quantization is not None
    assert manifest.quantization.method == "modelopt"
    copied = result.artifact.path / LLM_CHECKPOINT
    for name in ("model.safetensors", "hf_quant_config.json"):
        assert (copied / name).read_bytes() == (moved / name).read_bytes()
    other = again / "other"
    other.mkdir()
    with pytest.raises(UsageError, match="is quantised already"):
        build(moved.rename(other / "qwen3"), quantization_type="fp8")


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_checkpoint(path, tiny_bert()),
        lambda path: save_checkpoint(path, tiny_qwen3(), pooling="mean"),
        lambda path: save_checkpoint(
            path, tiny_qwen3(), pooling="lasttoken", dense=(Dense(32, 8),)
        ),
        lambda path: save_model(path, tiny_qwen3_reranker("A", "B", "C")),
    ],
    ids=["encoder", "mean", "dense", "classifier of a decoder"],
)
def test_what_tensorrt_llm_does_not_compute_is_refused(tmp_path: Path, save: Any) -> None:
    with pytest.raises(BuildError, match="TensorRT-LLM does not compute") as refused:
        build(save(tmp_path / "checkpoint"))

    assert refused.value.hint is not None
    assert "--backend tensorrt" in refused.value.hint
    assert not (tmp_path / "engine").exists()


def test_a_classifier_in_8_bit_is_refused(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "bert", tiny_classifier("A", "B", "C"))

    with pytest.raises(UsageError, match="in 16 bit only"):
        build(checkpoint, quantization_type="fp8")


def test_8_bit_of_cpus_is_refused(embedder: Path) -> None:
    with pytest.raises(UsageError, match="`quantization_type: smooth_quant` is not computed"):
        build(embedder, quantization_type="smooth_quant")


def test_float32_is_refused(embedder: Path) -> None:
    with pytest.raises(UsageError, match="`--precision f32` is not computed"):
        build(embedder, precision="f32")


@pytest.mark.parametrize("is_in_config", [False, True])
def test_the_checks_own_checkpoint_rounds_inputs_wherever_its_quantisation_is_told(
    tmp_path: Path, *, is_in_config: bool
) -> None:
    checkpoint, target = tmp_path / "checkpoint", tmp_path / "target"
    checkpoint.mkdir()
    section = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
    config = {"quantization_config": section} if is_in_config else {}
    (checkpoint / "config.json").write_text(json.dumps(config))
    if not is_in_config:
        own = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
        (checkpoint / "hf_quant_config.json").write_text(json.dumps(own))

    link_emulated(checkpoint, target)

    given, linked = read_modelopt_config(checkpoint), read_modelopt_config(target)
    assert given is not None
    assert linked == replace(given, emulates_activations=True)
    assert (target / "config.json").is_symlink()
