import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.artifact.engines import MANIFEST
from tests.builder.tiny_models import (
    save_checkpoint,
    save_model,
    tiny_classifier,
    tiny_qwen3,
    tiny_token_classifier,
)
from tests.engine.asking import run
from tests.engine.damage import damaged, truncate

from beicli.artifact.directory import EngineArtifact, seal_artifact, stage_artifact
from beicli.artifact.manifest import Precision
from beicli.builder import torch as torch_backend
from beicli.builder.backend import Network
from beicli.engine.batch import Batch, Float32, Int32, TokenSequence
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.engine.torch import PREFERRED_NUM_TOKENS, TorchEngine
from beicli.errors import ArtifactError
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import graph_inputs

TOLERANCE = 1e-5


@contextmanager
def unheard_step(_: str) -> Iterator[Callable[[str], None]]:
    yield lambda _: None


def write_artifact(checkpoint: Path, output: Path, precision: Precision = "f32") -> EngineArtifact:
    """Write an engine of a checkpoint, without the check a real build ends in."""
    spec = inspect_checkpoint(checkpoint)
    network = Network(
        checkpoint=checkpoint,
        spec=spec,
        module=load_module(checkpoint, spec),
        precision=precision,
        is_precision_asked=True,
    )
    with stage_artifact(output) as staging:
        outputs = torch_backend.write_engine(network, staging, unheard_step)
        manifest = replace(
            MANIFEST,
            model=spec,
            backend="torch",
            precision=precision,
            inputs=graph_inputs(spec),
            outputs=outputs,
        )
        seal_artifact(staging, manifest)
    return EngineArtifact.open(output)


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineArtifact:
    return write_artifact(tiny_checkpoint, tmp_path_factory.mktemp("torch") / "engine")


@pytest.fixture(scope="module")
def engine(artifact: EngineArtifact) -> Iterator[TorchEngine]:
    loaded = TorchEngine.load(artifact, EngineOptions(num_slots=2, num_threads=2))
    yield loaded
    loaded.close()


def alone(checkpoint: Path, ids: Int32, *type_ids: Int32) -> list[Float32]:
    """Compute the outputs of one sequence with the checkpoint's network, without padding."""
    module = load_module(checkpoint, inspect_checkpoint(checkpoint))
    inputs = [torch.from_numpy(row).unsqueeze(0) for row in (ids, np.ones_like(ids), *type_ids)]
    with torch.no_grad():
        return [output[0].numpy() for output in module(*inputs)]


def test_the_numbers_are_those_of_the_checkpoints_network(
    engine: TorchEngine, tiny_checkpoint: Path, sequences: list[Int32]
) -> None:
    chosen = [np.array([7], dtype=np.int32), *sequences[:6]]

    pooled = run(engine, *chosen)

    assert pooled.dtype == np.float32
    for row, ids in zip(pooled, chosen, strict=True):
        expected, _ = alone(tiny_checkpoint, ids)
        np.testing.assert_allclose(row, expected, rtol=0, atol=TOLERANCE)


def test_a_sequence_in_a_padded_batch_gives_what_it_gives_alone(
    engine: TorchEngine, sequences: list[Int32]
) -> None:
    together = run(engine, *sequences)
    each = np.concatenate([run(engine, sequence) for sequence in sequences])

    np.testing.assert_allclose(together, each, rtol=0, atol=TOLERANCE)
    # Not because every row is the same.
    assert np.ptp(together, axis=0).min() > 100 * TOLERANCE


def test_the_outputs_of_tokens_come_without_padding_beside_those_of_sequences(
    engine: TorchEngine, tiny_checkpoint: Path, sequences: list[Int32]
) -> None:
    chosen = sequences[:4]
    batch = Batch.from_sequences([TokenSequence(ids) for ids in chosen], needs_tokens=True)

    output = engine.forward(batch)

    expected = [alone(tiny_checkpoint, ids) for ids in chosen]
    assert output.tokens is not None
    assert output.pooled is not None
    np.testing.assert_allclose(
        output.tokens, np.concatenate([rows for _, rows in expected]), rtol=0, atol=TOLERANCE
    )
    np.testing.assert_allclose(
        output.pooled, np.stack([row for row, _ in expected]), rtol=0, atol=TOLERANCE
    )


def test_a_model_of_tokens_has_no_pooled_output(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "ner", tiny_token_classifier("O", "B-PER", "I-PER"))
    engine = load_engine(write_artifact(checkpoint, tmp_path / "engine"), EngineOptions())
    ids = [np.arange(5, 12, dtype=np.int32), np.array([9], dtype=np.int32)]

    batch = Batch.from_sequences([TokenSequence(each) for each in ids], needs_tokens=True)
    output = engine.forward(batch)

    assert output.pooled is None
    assert output.tokens is not None
    np.testing.assert_allclose(
        output.tokens,
        np.concatenate([alone(checkpoint, each)[0] for each in ids]),
        rtol=0,
        atol=TOLERANCE,
    )
    assert engine.forward(replace(batch, needs_tokens=False)).tokens is None


def test_token_types_reach_a_network_that_tells_texts_apart(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "classifier", tiny_classifier("A", "B", "C"))
    engine = load_engine(write_artifact(checkpoint, tmp_path / "engine"), EngineOptions())
    ids = np.arange(5, 15, dtype=np.int32)
    types = (np.arange(10) > 4).astype(np.int32)

    pair, text = TokenSequence(ids, types), TokenSequence(ids)
    with_types = engine.forward(Batch.from_sequences([pair, text])).pooled
    without = engine.forward(Batch.from_sequences([text])).pooled

    assert with_types is not None
    assert without is not None
    for row, row_types in ((with_types[0], types), (with_types[1], np.zeros_like(types))):
        expected = alone(checkpoint, ids, row_types)[0]
        np.testing.assert_allclose(row, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(with_types[1], without[0], rtol=0, atol=TOLERANCE)
    assert np.abs(with_types[0] - with_types[1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("num_slots", [1, 2])
def test_calls_at_the_same_time_each_get_their_own_result(
    artifact: EngineArtifact, sequences: list[Int32], num_slots: int
) -> None:
    engine = TorchEngine.load(artifact, EngineOptions(num_slots=num_slots, num_threads=2))
    expected = run(engine, *sequences)
    barrier = threading.Barrier(2)

    def call(thread: int) -> list[tuple[int, Float32]]:
        barrier.wait()
        indexes = range(thread, len(sequences), 2)
        return [(index, run(engine, sequences[index])[0]) for index in indexes]

    with ThreadPoolExecutor(2) as executor:
        results = [pair for pairs in executor.map(call, range(2)) for pair in pairs]

    assert sorted(index for index, _ in results) == list(range(len(sequences)))
    for index, row in results:
        np.testing.assert_allclose(row, expected[index], rtol=0, atol=TOLERANCE)


def test_one_slot_is_never_in_two_calls_at_once(artifact: EngineArtifact) -> None:
    running, most = 0, 0
    module = load_module(artifact.path / "torch", artifact.manifest.model)

    def count(*_: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.05)

    def uncount(*_: object) -> None:
        nonlocal running
        running -= 1

    module.register_forward_pre_hook(count)
    module.register_forward_hook(uncount)
    engine = TorchEngine(
        module, artifact.manifest, num_slots=1, num_threads=1, preferred_num_tokens=64
    )

    with ThreadPoolExecutor(3) as executor:
        list(executor.map(lambda _: run(engine, np.array([7], dtype=np.int32)), range(6)))

    assert (running, most) == (0, 1)


def test_a_slot_is_free_again_after_a_call_that_failed(artifact: EngineArtifact) -> None:
    engine = TorchEngine.load(artifact, EngineOptions(num_slots=1, num_threads=1))
    unknown = np.array([artifact.manifest.model.vocab_size], dtype=np.int32)

    for _ in range(2):
        with pytest.raises(IndexError):
            run(engine, unknown)

    assert len(run(engine, np.array([7], dtype=np.int32))) == 1


@pytest.mark.parametrize(
    ("num_slots", "num_threads", "threads_of_a_pass"),
    [(None, 3, 3), (1, 2, 2), (2, 4, 2), (2, 3, 1), (4, 2, 1)],
)
def test_threads_are_shared_out_over_slots_in_the_thread_that_computes(
    artifact: EngineArtifact, num_slots: int | None, num_threads: int, threads_of_a_pass: int
) -> None:
    engine = TorchEngine.load(artifact, EngineOptions(num_slots=num_slots, num_threads=num_threads))

    def call() -> tuple[int, int]:
        # Computes first with another number, as a thread does that also serves something else.
        torch.set_num_threads(5)
        run(engine, np.array([7], dtype=np.int32))
        return engine.num_slots, torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1) as executor:
            found = executor.submit(call).result()
    finally:
        torch.set_num_threads(before)

    assert found == (num_slots or 1, threads_of_a_pass)


def test_a_result_belongs_to_its_receiver(engine: TorchEngine, sequences: list[Int32]) -> None:
    first = run(engine, sequences[0])
    expected = first.copy()
    first[:] = 0

    np.testing.assert_allclose(run(engine, sequences[0]), expected, rtol=0, atol=TOLERANCE)
    assert first.base is None


@pytest.mark.parametrize(
    ("max_num_tokens", "expected"), [(100, 100), (PREFERRED_NUM_TOKENS + 1, PREFERRED_NUM_TOKENS)]
)
def test_preferred_num_tokens_stays_within_the_engines_limit(
    artifact: EngineArtifact, max_num_tokens: int, expected: int
) -> None:
    limits = replace(artifact.manifest.limits, max_num_tokens=max_num_tokens)
    limited = replace(artifact, manifest=replace(artifact.manifest, limits=limits))

    assert load_engine(limited, EngineOptions()).preferred_num_tokens == expected


def cosine(a: Float32, b: Float32) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_bf16_engine_computes_in_bf16_and_gives_float32(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "qwen3", tiny_qwen3(), pooling="lasttoken")
    engine = TorchEngine.load(
        write_artifact(checkpoint, tmp_path / "engine", "bf16"), EngineOptions(num_threads=1)
    )
    ids = np.arange(5, 45, dtype=np.int32)

    row = run(engine, ids)[0]

    expected, _ = alone(checkpoint, ids)
    assert row.dtype == np.float32
    assert cosine(row, expected) > 0.999
    assert np.abs(row - expected).max() > 100 * TOLERANCE


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_checkpoint_stored_in_16_bit_is_computed_in_the_engines_precision(
    tmp_path: Path, precision: Precision
) -> None:
    checkpoint = save_checkpoint(tmp_path / "qwen3", tiny_qwen3().to(torch.bfloat16))
    engine = load_engine(
        write_artifact(checkpoint, tmp_path / "engine", precision), EngineOptions()
    )
    ids = np.arange(5, 45, dtype=np.int32)

    row = run(engine, ids)[0]

    expected, _ = alone(checkpoint, ids)
    difference = np.abs(row - expected).max()
    assert cosine(row, expected) > 0.999
    assert (difference < TOLERANCE) == (precision == "f32")


def scribble(path: Path) -> None:
    path.write_text('{"model_type": ["bert"]}', encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", Path.unlink),
        ("config.json", scribble),
        ("config.json", Path.unlink),
    ],
)
def test_a_checkpoint_that_does_not_load_is_an_artifact_error(
    artifact: EngineArtifact, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    broken = damaged(artifact, tmp_path, f"torch/{name}", damage)

    with pytest.raises(ArtifactError, match=r"torch cannot load `.*/torch`: ") as raised:
        load_engine(broken, EngineOptions())

    assert raised.value.hint


def test_weights_of_another_model_do_not_pass_for_these(
    artifact: EngineArtifact, tmp_path: Path
) -> None:
    other = save_checkpoint(tmp_path / "other", tiny_qwen3())
    with stage_artifact(tmp_path / "engine") as staging:
        (staging / "torch").mkdir()
        shutil.copy(artifact.path / "torch" / "config.json", staging / "torch")
        shutil.copy(other / "model.safetensors", staging / "torch")
        seal_artifact(staging, artifact.manifest)

    with pytest.raises(ArtifactError, match="are missing or of another shape"):
        load_engine(EngineArtifact.open(tmp_path / "engine"), EngineOptions())


@pytest.mark.parametrize("package", ["torch", "transformers", "safetensors"])
def test_without_the_build_extra_the_error_says_how_to_install_it(
    artifact: EngineArtifact, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("beicli.engine.torch", "beicli.modeling.loading"):
        monkeypatch.delitem(sys.modules, name)
    # Python then raises what it does for a package that is not there.
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ArtifactError, match="computes with torch, and the package") as raised:
        load_engine(artifact, EngineOptions())

    assert f"`{package}`" in raised.value.message
    assert "pip install 'beicli[build]'" in str(raised.value.hint)


def test_closing_an_engine_leaves_others_alone(
    artifact: EngineArtifact, engine: TorchEngine, sequences: list[Int32]
) -> None:
    other = TorchEngine.load(artifact, EngineOptions(num_slots=1, num_threads=1))
    expected = run(other, sequences[0])

    other.close()

    np.testing.assert_allclose(run(engine, sequences[0]), expected, rtol=0, atol=TOLERANCE)
