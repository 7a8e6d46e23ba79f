"""Tiny checkpoints and one build, made once a test run, and a hub to fetch checkpoints from."""

import shutil
from pathlib import Path

import pytest
from tests.builder.builds import Finished, Recorder, run_build, write_config

from beicli.builder import openvino
from beicli.builder.graph import export_onnx
from beicli.config.load import LoadedConfig
from beicli.model.spec import ModelSpec
from beicli.modeling.tasks import TaskModule


@pytest.fixture(scope="session")
def finished(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("build")
    loaded = write_config(directory, tiny_checkpoint, max_batch_size=16)
    progress = Recorder()
    onnx_path = tmp_path_factory.mktemp("onnx") / "model.onnx"

    def export_and_keep(module: TaskModule, spec: ModelSpec, path: Path) -> None:
        export_onnx(module, spec, path)
        shutil.copyfile(path, onnx_path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "export_onnx", export_and_keep)
        result = run_build(loaded, directory / "engine", progress=progress)
    return Finished(loaded, result, progress, onnx_path)


@pytest.fixture
def quick_export(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graph of the finished build in place of the export, which takes seconds."""

    def copy(module: TaskModule, spec: ModelSpec, path: Path) -> None:
        shutil.copyfile(finished.onnx_path, path)

    monkeypatch.setattr(openvino, "export_onnx", copy)


@pytest.fixture
def loaded(tiny_checkpoint: Path, tmp_path: Path) -> LoadedConfig:
    """A configuration of the tiny checkpoint, alone in its folder."""
    return write_config(tmp_path, tiny_checkpoint)
