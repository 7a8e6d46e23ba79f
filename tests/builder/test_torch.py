"""Builds whose engine is the checkpoint's own network: of every task, and of what has no graph."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.builder.builds import Finished, Recorder, run_build, with_accelerator, write_config
from tests.builder.tiny_models import (
    save_checkpoint,
    save_model,
    save_splade,
    tiny_bert,
    tiny_classifier,
    tiny_qwen3_moe,
    tiny_qwen3_reranker,
    tiny_token_classifier,
)

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.golden import Float32, Sample
from beicli.artifact.manifest import Backend, Precision
from beicli.builder import openvino
from beicli.builder import torch as torch_backend
from beicli.builder.build import BuildResult
from beicli.config.load import LoadedConfig
from beicli.errors import AccuracyError, BuildError
from beicli.model.spec import Task
from beicli.pipeline.pipeline import compute_outputs

STEPS = ["Fetched", "Inspected", "Loaded", "Copied", "Checked"]
SAVERS: dict[Task, Callable[[Path], Path]] = {
    Task.EMBEDDING: lambda path: save_checkpoint(path, tiny_bert()),
    Task.SPARSE_EMBEDDING: save_splade,
    Task.CLASSIFICATION: lambda path: save_model(path, tiny_classifier("A", "B", "C")),
    Task.RERANKING: lambda path: save_model(
        path, tiny_classifier("LABEL_0", initializer_range=0.3)
    ),
    Task.TOKEN_CLASSIFICATION: lambda path: save_model(
        path, tiny_token_classifier("O", "B-PER", "I-PER")
    ),
}
OUTPUTS = {
    Task.EMBEDDING: ["embeddings", "token_embeddings"],
    Task.SPARSE_EMBEDDING: ["sparse_embeddings"],
    Task.CLASSIFICATION: ["logits"],
    Task.RERANKING: ["logits"],
    Task.TOKEN_CLASSIFICATION: ["token_logits"],
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tiny products in one thread: a second one waits for a core that others may hold."""
    monkeypatch.setattr("beicli.engine.torch.available_cpus", lambda: 1)


def build_with_torch(loaded: LoadedConfig, **options: Any) -> BuildResult:
    output = loaded.path.parent / "engine"
    return run_build(loaded, output, **{"backend": "torch", "precision": None} | options)


@pytest.fixture(scope="module")
def built(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BuildResult, Recorder]:
    """A build without any wish but the backend, and what was heard of it."""
    loaded = write_config(tmp_path_factory.mktemp("torch"), tiny_checkpoint)
    progress = Recorder()
    return build_with_torch(loaded, progress=progress), progress


def files_of(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }


def test_the_directory_holds_the_files_that_the_network_is_loaded_from(
    built: tuple[BuildResult, Recorder], tiny_checkpoint: Path
) -> None:
    engine = built[0].artifact.path

    assert files_of(engine) == {
        "manifest.json",
        "config.yaml",
        "report.json",
        "golden.npz",
        "torch/config.json",
        "torch/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }
    for name in ("config.json", "model.safetensors"):
        assert (engine / "torch" / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


def test_each_step_is_told_in_order(built: tuple[BuildResult, Recorder]) -> None:
    _, progress = built

    assert progress.started_steps == progress.finished_steps == STEPS
    assert progress.details["Copied"] == "torch, f32: the precision of the reference"
    assert progress.warnings == []


def test_the_manifest_names_the_backend_and_what_computes(
    built: tuple[BuildResult, Recorder],
) -> None:
    manifest = built[0].artifact.manifest

    assert (manifest.backend, manifest.precision, manifest.cpu_features) == ("torch", "f32", ())
    assert [tensor.name for tensor in manifest.inputs] == ["input_ids", "attention_mask"]
    assert [tensor.shape for tensor in manifest.outputs] == [("batch", 32), ("batch", "length", 32)]
    assert manifest.toolchain["torch"] == torch.__version__
    assert manifest.toolchain["transformers"] == transformers.__version__
    assert manifest.toolchain.keys().isdisjoint({"openvino", "onnx", "onnxscript"})


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("task", Task)
def test_every_task_is_built_in_every_precision_and_agrees_with_transformers(
    tmp_path: Path, task: Task, precision: Precision
) -> None:
    checkpoint = SAVERS[task](tmp_path / "checkpoint")
    progress = Recorder()

    result = build_with_torch(
        write_config(tmp_path, checkpoint), precision=precision, progress=progress
    )

    manifest = EngineArtifact.open(result.artifact.path).manifest
    assert (manifest.model.task, manifest.precision) == (task, precision)
    assert [tensor.name for tensor in manifest.outputs] == OUTPUTS[task]
    assert result.report.passed
    assert result.report.precision == precision
    assert progress.details["Copied"] == f"torch, {precision} as asked"


def test_torch_and_openvino_give_the_same_numbers(
    built: tuple[BuildResult, Recorder], finished: Finished
) -> None:
    texts = ["A short text.", "Another one, which is a good deal longer than the first."]

    by_torch, by_openvino = (
        np.stack(compute_outputs(result.artifact, texts)) for result in (built[0], finished.result)
    )

    np.testing.assert_allclose(by_torch, by_openvino, rtol=0, atol=1e-5)


def test_a_sharded_checkpoint_comes_with_its_index(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "sharded", tiny_bert())
    tiny_bert().save_pretrained(checkpoint, max_shard_size="50KB")
    (checkpoint / "model.safetensors").unlink()
    shards = {path.name for path in checkpoint.glob("model-*.safetensors")}

    result = build_with_torch(write_config(tmp_path, checkpoint))

    assert len(shards) > 1
    assert files_of(result.artifact.path / "torch") == shards | {
        "config.json",
        "model.safetensors.index.json",
    }


def test_dense_modules_come_with_their_folders(dense_checkpoint: Path, tmp_path: Path) -> None:
    result = build_with_torch(write_config(tmp_path, dense_checkpoint))

    manifest = result.artifact.manifest
    assert files_of(result.artifact.path / "torch") == {
        "config.json",
        "model.safetensors",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_Dense/config.json",
        "3_Dense/model.safetensors",
    }
    assert [tensor.shape for tensor in manifest.outputs] == [("batch", 8), ("batch", "length", 32)]


def test_an_engine_is_whole_without_its_checkpoint_and_does_not_change_with_it(
    tmp_path: Path,
) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_bert())
    # As in a hub's cache, where files are links.
    weights = (checkpoint / "model.safetensors").rename(tmp_path / "blob")
    (checkpoint / "model.safetensors").symlink_to(weights)
    artifact = build_with_torch(write_config(tmp_path, checkpoint)).artifact
    before = np.stack(compute_outputs(artifact, ["A short text."]))

    weights.write_bytes(bytes(weights.stat().st_size))

    after = np.stack(compute_outputs(EngineArtifact.open(artifact.path), ["A short text."]))
    np.testing.assert_array_equal(after, before)


@pytest.fixture(scope="module")
def moe_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts: which of them compute is decided by the numbers."""
    directory = tmp_path_factory.mktemp("moe") / "tiny-moe"
    return save_checkpoint(directory, tiny_qwen3_moe(), pooling="lasttoken")


def test_a_network_that_cannot_be_exported_is_refused_with_the_way_around(
    moe_checkpoint: Path, tmp_path: Path
) -> None:
    loaded = write_config(tmp_path, moe_checkpoint)

    with pytest.raises(BuildError, match="the model cannot be exported: ") as raised:
        run_build(loaded, tmp_path / "engine")
    result = build_with_torch(loaded)

    assert "`--backend torch`" in str(raised.value.hint)
    assert result.artifact.manifest.model.architecture == "Qwen3MoeModel"
    assert result.report.passed
    (vector,) = compute_outputs(EngineArtifact.open(result.artifact.path), ["A short text."])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_torch_is_never_chosen_silently(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BuildError("the model cannot be exported: no graph")

    monkeypatch.setattr(openvino, "export_onnx", fail)

    with pytest.raises(BuildError, match="no graph"):
        run_build(loaded, tmp_path / "engine")

    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_causal_reranker_is_asked_with_its_prompt(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "causal", tiny_qwen3_reranker("no", "yes"))

    result = build_with_torch(write_config(tmp_path, checkpoint))

    assert result.artifact.manifest.model.rerank_template is not None
    assert result.report.passed


def test_a_configured_accelerator_does_not_matter_once_torch_is_named(
    loaded: LoadedConfig,
) -> None:
    assert build_with_torch(with_accelerator(loaded)).artifact.manifest.backend == "torch"


def embed_noise(artifact: EngineArtifact, texts: Sequence[Sample]) -> list[Float32]:
    rows = np.random.default_rng(0).normal(size=(len(texts), 32))
    return list((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


@pytest.mark.parametrize(
    ("backend", "precision", "hint"),
    [
        ("openvino", "f32", "build it with `--backend torch`"),
        ("torch", "f32", "padding or tokens are wrong"),
        ("torch", "bf16", "build with `--precision f32`"),
    ],
)
@pytest.mark.usefixtures("quick_export")
def test_numbers_that_are_wrong_are_refused_with_what_is_left_to_do(
    loaded: LoadedConfig, tmp_path: Path, backend: Backend, precision: Precision, hint: str
) -> None:
    with pytest.raises(AccuracyError) as raised:
        run_build(
            loaded, tmp_path / "engine", backend=backend, precision=precision, compute=embed_noise
        )

    assert hint in str(raised.value.hint)
    assert not (tmp_path / "engine").exists()


def test_the_report_of_a_torch_engine_is_kept(built: tuple[BuildResult, Recorder]) -> None:
    result, _ = built

    written = json.loads((result.artifact.path / "report.json").read_text(encoding="utf-8"))
    assert written["cosine_min"] == result.report.cosine_min
    assert result.report.cosine_min > 0.99999


@pytest.mark.parametrize(("asked", "chosen"), [(None, "f32"), ("f32", "f32"), ("bf16", "bf16")])
def test_precision_is_f32_unless_asked(asked: Precision | None, chosen: Precision) -> None:
    assert torch_backend.choose_precision(asked) == chosen
    assert torch_backend.cpu_features(chosen) == ()
