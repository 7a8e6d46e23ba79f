"""A real engine of a tiny model, compiled once a test run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tests.artifact.engines import MANIFEST
from tests.builder.tiny_models import save_checkpoint, tiny_bert

from beicli.artifact.directory import EngineArtifact, seal_artifact, stage_artifact
from beicli.builder import openvino
from beicli.builder.graph import export_onnx
from beicli.engine.batch import Int32
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import graph_inputs


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    """A float32 engine, without the check a real build ends in."""
    directory = tmp_path_factory.mktemp("tiny-bert")
    checkpoint = save_checkpoint(directory / "checkpoint", tiny_bert())
    spec = inspect_checkpoint(checkpoint)
    export_onnx(load_module(checkpoint, spec), spec, directory / "model.onnx")
    with stage_artifact(directory / "engine") as staging:
        outputs = openvino.convert(directory / "model.onnx", staging)
        (staging / "tokenizer").mkdir()
        shutil.copy(checkpoint / "tokenizer.json", staging / "tokenizer")
        seal_artifact(
            staging, replace(MANIFEST, model=spec, inputs=graph_inputs(spec), outputs=outputs)
        )
    return EngineArtifact.open(directory / "engine")


@pytest.fixture
def sequences(artifact: EngineArtifact) -> list[Int32]:
    """Token ids of every length from one to the longest, in no order."""
    rng = np.random.default_rng(7)
    lengths = rng.permutation(np.arange(1, artifact.manifest.model.max_input_length + 1))
    vocab_size = artifact.manifest.model.vocab_size
    return [rng.integers(5, vocab_size, length, dtype=np.int32) for length in lengths]
