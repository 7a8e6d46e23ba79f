import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builder.builds import (
    STEPS,
    Finished,
    Recorder,
    run_build,
    with_accelerator,
    with_build,
    write_config,
)

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.golden import Float32
from beicli.builder import build, openvino
from beicli.builder.samples import Sample
from beicli.builder.texts import REFERENCE_TEXTS
from beicli.config.load import LoadedConfig
from beicli.config.schema import BaseModel, QuantizationConfig
from beicli.errors import (
    AccuracyError,
    ArtifactError,
    BuildError,
    CheckpointError,
    UnsupportedModelError,
    UsageError,
)
from beicli.machine import this_machine
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import TaskModule
from beicli.pipeline.pipeline import compute_outputs


def embed_noise(artifact: EngineArtifact, texts: Sequence[Sample]) -> list[Float32]:
    rows = np.random.default_rng(0).normal(size=(len(texts), 32))
    return list((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def embed_one_wrong(artifact: EngineArtifact, texts: Sequence[Sample]) -> list[Float32]:
    embeddings = compute_outputs(artifact, texts)
    embeddings[3] = -embeddings[3]
    return embeddings


def embed_too_few_dimensions(artifact: EngineArtifact, texts: Sequence[Sample]) -> list[Float32]:
    return [row[:8] for row in compute_outputs(artifact, texts)]


def embed_with_a_broken_engine(artifact: EngineArtifact, texts: Sequence[Sample]) -> list[Float32]:
    raise ArtifactError("the engine does not load")


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize(
    ("embed", "error", "message"),
    [
        (embed_noise, AccuracyError, "disagrees with the float32 reference"),
        (embed_one_wrong, AccuracyError, repr(REFERENCE_TEXTS[3])),
        (embed_too_few_dimensions, BuildError, "gives an output of shape"),
        (embed_with_a_broken_engine, ArtifactError, "does not load"),
    ],
)
def test_an_engine_that_fails_its_check_is_not_kept(
    loaded: LoadedConfig, tmp_path: Path, embed: Any, error: type[BuildError], message: str
) -> None:
    progress = Recorder()

    with pytest.raises(error, match=message):
        run_build(loaded, tmp_path / "engine", compute=embed, progress=progress)

    assert progress.started_steps == STEPS
    assert progress.finished_steps == STEPS[:-1]
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.usefixtures("quick_export")
def test_a_failed_check_leaves_the_engine_that_was_to_be_replaced(
    loaded: LoadedConfig, finished: Finished, tmp_path: Path
) -> None:
    engine = shutil.copytree(finished.path, tmp_path / "engine")

    with pytest.raises(AccuracyError):
        run_build(loaded, engine, compute=embed_noise, force=True)

    assert EngineArtifact.open(engine).manifest == finished.result.artifact.manifest


@pytest.mark.usefixtures("quick_export")
def test_a_checkpoint_with_a_damaged_tokenizer_is_a_build_error(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    (checkpoint / "tokenizer.json").write_text('{"model": {}}')

    with pytest.raises(BuildError, match="cannot load the tokenizer"):
        run_build(write_config(tmp_path, checkpoint), tmp_path / "engine")

    assert not (tmp_path / "engine").exists()


@pytest.mark.usefixtures("quick_export")
def test_a_checkpoint_whose_weights_are_no_numbers_is_a_build_error(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_broken(directory: Path, spec: Any) -> TaskModule:
        module = load_module(directory, spec)
        next(module.parameters()).data.fill_(float("nan"))
        return module

    monkeypatch.setattr(build, "load_module", load_broken)

    with pytest.raises(BuildError, match="reference itself gives numbers that are not finite"):
        run_build(write_config(tmp_path, tiny_checkpoint), tmp_path / "engine")


def test_an_accelerator_without_kernels_is_refused_with_the_way_around(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    progress = Recorder()

    with pytest.raises(UsageError, match=r"`resources\.accelerator` is `V100`") as raised:
        run_build(with_accelerator(loaded, "V100"), tmp_path / "engine", progress=progress)

    assert "--backend openvino" in str(raised.value.hint)
    assert progress.started_steps == []


def test_a_decoder_is_refused(loaded: LoadedConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`decoder`, a model that generates text") as raised:
        run_build(with_build(loaded, base_model=BaseModel.DECODER), tmp_path / "engine")

    assert "`encoder_bert`" in str(raised.value.hint)


@pytest.mark.parametrize("kind", ["weights_kv_int8", "weights_int4"])
def test_what_no_cpu_computes_is_refused(loaded: LoadedConfig, tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match=f"`quantization_type: {kind}` cannot be built") as raised:
        run_build(with_build(loaded, quantization_type=kind), tmp_path / "engine")

    assert "`smooth_quant`" in str(raised.value.hint)


@pytest.mark.parametrize("kind", ["weights_int8", "smooth_quant"])
def test_8_bit_is_refused_where_it_cannot_be_computed(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    in_8_bit = with_build(loaded, quantization_type=kind)
    with pytest.raises(UsageError, match="not computed by `--backend torch`"):
        run_build(in_8_bit, tmp_path / "engine", backend="torch")

    machine = replace(this_machine(), cpu_features=("avx2",))
    monkeypatch.setattr(openvino, "this_machine", lambda: machine)
    with pytest.raises(UsageError, match="no instructions that multiply in 8 bit"):
        run_build(in_8_bit, tmp_path / "engine")


def test_a_file_of_texts_that_is_missing_ends_the_build_before_the_long_steps(
    loaded: LoadedConfig, tmp_path: Path
) -> None:
    progress = Recorder()
    in_8_bit = with_build(
        loaded,
        quantization_type="smooth_quant",
        quantization_config=QuantizationConfig(calib_dataset="none.txt"),
    )

    with pytest.raises(UsageError, match="cannot read dataset"):
        run_build(in_8_bit, tmp_path / "engine", progress=progress)

    assert "Exported" not in progress.started_steps
    assert not (tmp_path / "engine").exists()


def test_bf16_on_a_cpu_without_it_is_refused_before_the_long_steps(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "supports_bf16", lambda: False)
    progress = Recorder()

    with pytest.raises(UsageError, match="does not compute bf16"):
        run_build(loaded, tmp_path / "engine", precision="bf16", progress=progress)

    assert progress.started_steps == []


def test_an_existing_output_is_refused_before_the_long_steps(
    loaded: LoadedConfig, finished: Finished
) -> None:
    progress = Recorder()

    with pytest.raises(UsageError, match="already holds an engine"):
        run_build(loaded, finished.path, progress=progress)

    assert progress.started_steps == []
    assert EngineArtifact.open(finished.path) == finished.result.artifact


def test_a_checkpoint_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    progress = Recorder()

    with pytest.raises(CheckpointError, match="does not exist"):
        run_build(write_config(tmp_path, "nowhere"), tmp_path / "engine", progress=progress)

    assert (progress.started_steps, progress.finished_steps) == (["Fetched"], [])
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_model_that_cannot_be_served_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "other-pooling")
    (checkpoint / "1_Pooling" / "config.json").write_text('{"pooling_mode": "attention"}')
    loaded = write_config(tmp_path, checkpoint)

    with pytest.raises(UnsupportedModelError, match="asks for pooling attention"):
        run_build(loaded, tmp_path / "engine")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "other-pooling"]


def test_an_interrupted_build_leaves_nothing(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(module: TaskModule, spec: Any, path: Path) -> None:
        path.write_bytes(b"half a graph")
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino, "export_onnx", interrupt)

    with pytest.raises(KeyboardInterrupt):
        run_build(loaded, tmp_path / "engine")

    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
