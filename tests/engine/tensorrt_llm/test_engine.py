"""The engine as the server sees it, with its worker in a real process."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.artifact.engines import MANIFEST
from tests.builder.builds import run_build, write_config
from tests.builder.tiny_models import save_checkpoint, tiny_qwen3
from tests.engine.tensorrt_llm.fakes import TABLE, fake_python, options, table_checkpoint

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.tensorrt_llm import LLM_PROBE, Probe
from beicli.engine.batch import Batch, TokenSequence
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions, GpuOptions
from beicli.engine.tensorrt_llm import engine as engine_module
from beicli.engine.tensorrt_llm.engine import TensorRtLlmEngine
from beicli.engine.tensorrt_llm.environment import PYTHON_VARIABLE
from beicli.engine.tensorrt_llm.process import WorkerProcess
from beicli.errors import ArtifactError, EngineError, GpuUnavailableError, ToolMissingError
from beicli.tensorrt.driver import CudaDevice, Driver

IDS = np.arange(9, dtype=np.int32)
PROBE = Probe(
    input_ids=IDS,
    token_type_ids=np.zeros_like(IDS),
    cu_seqlens=np.array([0, 3, 9], dtype=np.int32),
    outputs=np.stack([TABLE[0:3].mean(axis=0), TABLE[3:9].mean(axis=0)]),
)
LLM_MANIFEST = replace(MANIFEST, backend="tensorrt-llm", precision="bf16")
BATCH = Batch.from_sequences(
    [TokenSequence(np.array(ids, dtype=np.int32)) for ids in ([1, 2], [3], [4, 5, 6])]
)
EXPECTED = np.stack([TABLE[1:3].mean(axis=0), TABLE[3], TABLE[4:7].mean(axis=0)])
Make = Callable[..., TensorRtLlmEngine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make an engine whose checkpoint behaves as told; it is closed at the end."""
    made = []
    python = fake_python(tmp_path)

    def make(probe: Probe = PROBE, **behaviour: object) -> TensorRtLlmEngine:
        checkpoint = table_checkpoint(tmp_path, **behaviour)
        engine = TensorRtLlmEngine(
            lambda: WorkerProcess(options(python, checkpoint)),
            LLM_MANIFEST,
            probe,
            preferred_num_tokens=48,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that this process sees."""
    devices = tuple(
        CudaDevice(index=index, name="some GPU", sm=90, memory_bytes=80_000_000_000)
        for index in range(2)
    )
    monkeypatch.setattr(engine_module, "read_driver", lambda: Driver((13, 2), devices))


def test_a_batch_is_computed_without_padding(make: Make) -> None:
    engine = make()

    output = engine.forward(BATCH)

    assert output.pooled is not None
    np.testing.assert_allclose(output.pooled, EXPECTED, rtol=1e-6)
    assert output.tokens is None
    assert (engine.num_slots, engine.preferred_num_tokens) == (1, 48)
    assert engine.padded_length(17) == 17


def test_a_worker_that_crashed_is_started_again_for_the_next_batch(make: Make) -> None:
    # One call is the probe's.
    engine = make(encode="crash", good_calls=2)
    engine.forward(BATCH)

    with pytest.raises(EngineError, match="ended with exit code 7"):
        engine.forward(BATCH)

    pooled = engine.forward(BATCH).pooled
    assert pooled is not None
    np.testing.assert_allclose(pooled, EXPECTED, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.2, -1.0, 0.0])
def test_numbers_that_are_not_the_checkpoints_are_refused(make: Make, scale: float) -> None:
    with pytest.raises(ArtifactError, match="computes other numbers than the checkpoint") as found:
        make(probe=replace(PROBE, outputs=np.float32(scale) * PROBE.outputs))

    assert "0.05 is allowed in bf16" in found.value.message


def test_numbers_that_are_nearly_the_checkpoints_are_taken(make: Make) -> None:
    make(probe=replace(PROBE, outputs=np.float32(1.02) * PROBE.outputs))


def test_a_built_engine_is_served_and_gives_the_checkpoints_vectors(
    tmp_path: Path, gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_checkpoint(tmp_path / "qwen3", tiny_qwen3(), pooling="lasttoken")
    loaded = write_config(tmp_path, checkpoint, base_model="encoder")
    artifact = run_build(
        loaded, tmp_path / "engine", backend="tensorrt-llm", precision="bf16"
    ).artifact
    monkeypatch.setenv(PYTHON_VARIABLE, str(fake_python(tmp_path)))

    engine = load_engine(EngineArtifact.open(artifact.path), EngineOptions())

    pooled = engine.forward(BATCH).pooled
    engine.close()
    assert pooled is not None
    assert pooled.shape == (3, 32)
    assert np.isfinite(pooled).all()
    (artifact.path / LLM_PROBE).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"probe\.npz` cannot be read"):
        load_engine(artifact, EngineOptions())


def test_without_an_environment_it_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)

    with pytest.raises(ToolMissingError, match=f"{PYTHON_VARIABLE} is not set"):
        load_engine(EngineArtifact(tmp_path, LLM_MANIFEST), EngineOptions())


@pytest.mark.parametrize(
    ("replica_number", "device_index", "visible", "expected"),
    [
        (0, None, "", "0"),
        (1, None, "", "1"),
        (2, None, "", "0"),
        (0, 1, "", "1"),
        (0, 1, "5,GPU-abc", "GPU-abc"),
        (3, None, "5, 7", "7"),
    ],
)
def test_the_worker_sees_one_gpu_of_those_that_this_process_sees(
    gpus: None,
    monkeypatch: pytest.MonkeyPatch,
    replica_number: int,
    device_index: int | None,
    visible: str,
    expected: str,
) -> None:
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", visible)
    asked = EngineOptions(replica_number=replica_number, gpu=GpuOptions(device_index=device_index))

    assert engine_module._visible_device(asked) == expected


def test_a_gpu_that_is_not_there_is_told(gpus: None) -> None:
    with pytest.raises(GpuUnavailableError, match="there is no GPU 2: the driver shows 2"):
        engine_module._visible_device(EngineOptions(gpu=GpuOptions(device_index=2)))
