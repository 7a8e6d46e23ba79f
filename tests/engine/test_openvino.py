import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as opset
from tests.artifact.engines import MANIFEST
from tests.engine.asking import run
from tests.engine.damage import damaged, truncate

from beicli.artifact.directory import EngineArtifact
from beicli.engine.batch import Float32, Int32
from beicli.engine.load import load_engine
from beicli.engine.openvino import (
    PREFERRED_NUM_TOKENS,
    OpenVinoEngine,
    default_num_slots,
    round_up_length,
)
from beicli.engine.options import EngineOptions
from beicli.errors import ArtifactError

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def engine(artifact: EngineArtifact) -> Iterator[OpenVinoEngine]:
    loaded = OpenVinoEngine.load(artifact, EngineOptions(num_slots=2, num_threads=2))
    yield loaded
    loaded.close()


def test_a_row_comes_back_for_each_sequence(
    engine: OpenVinoEngine, artifact: EngineArtifact, sequences: list[Int32]
) -> None:
    pooled = run(engine, *sequences[:5])

    assert pooled.shape == (5, artifact.manifest.model.embedding_dimension)
    assert pooled.dtype == np.float32
    assert np.isfinite(pooled).all()


def test_a_sequence_in_a_padded_batch_gives_what_it_gives_alone(
    engine: OpenVinoEngine, sequences: list[Int32]
) -> None:
    together = run(engine, *sequences)
    alone = np.concatenate([run(engine, sequence) for sequence in sequences])

    np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE)
    # Not because every row is the same.
    assert np.ptp(together, axis=0).min() > 100 * TOLERANCE


def test_the_order_of_a_batch_is_the_order_of_its_rows(
    engine: OpenVinoEngine, sequences: list[Int32]
) -> None:
    forwards = run(engine, *sequences)
    backwards = run(engine, *reversed(sequences))

    np.testing.assert_allclose(forwards, backwards[::-1], rtol=0, atol=TOLERANCE)


def test_a_larger_batch_may_follow_a_smaller_one_on_the_same_slot(
    artifact: EngineArtifact, sequences: list[Int32]
) -> None:
    engine = OpenVinoEngine.load(artifact, EngineOptions(num_slots=1, num_threads=1))

    rows = [run(engine, *sequences[:count])[0] for count in (1, 2, 9, 3, 20)]

    for row in rows[1:]:
        np.testing.assert_allclose(row, rows[0], rtol=0, atol=TOLERANCE)


def test_a_result_is_not_overwritten_by_the_next_call(
    artifact: EngineArtifact, sequences: list[Int32]
) -> None:
    engine = OpenVinoEngine.load(artifact, EngineOptions(num_slots=1, num_threads=1))
    first = run(engine, *sequences[:4])
    before = first.copy()

    second = run(engine, *sequences[4:8])

    np.testing.assert_array_equal(first, before)
    assert np.abs(second - first).max() > 100 * TOLERANCE


def test_a_result_belongs_to_its_receiver(engine: OpenVinoEngine, sequences: list[Int32]) -> None:
    first = run(engine, sequences[0])
    expected = first.copy()
    first[:] = 0

    np.testing.assert_allclose(run(engine, sequences[0]), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_threads", [2, 5])
def test_calls_at_the_same_time_each_get_their_own_result(
    engine: OpenVinoEngine, sequences: list[Int32], num_threads: int
) -> None:
    # With five threads some wait for one of the two slots.
    expected = run(engine, *sequences)
    barrier = threading.Barrier(num_threads)

    def call(thread: int) -> list[tuple[int, Float32]]:
        barrier.wait()
        indexes = range(thread, len(sequences), num_threads)
        return [(index, run(engine, sequences[index])[0]) for index in indexes]

    with ThreadPoolExecutor(num_threads) as executor:
        results = [pair for pairs in executor.map(call, range(num_threads)) for pair in pairs]

    assert sorted(index for index, _ in results) == list(range(len(sequences)))
    for index, row in results:
        np.testing.assert_allclose(row, expected[index], rtol=0, atol=TOLERANCE)


def test_a_slot_is_free_again_after_a_call_that_failed() -> None:
    limits = replace(MANIFEST.limits, max_input_length=2)
    no_padding = replace(MANIFEST, limits=limits)
    engine = OpenVinoEngine(
        compile_sum_of_two_tokens(), no_padding, num_slots=1, preferred_num_tokens=64
    )
    two, three = np.array([5, 6], dtype=np.int32), np.array([5, 6, 7], dtype=np.int32)

    for _ in range(2):
        with pytest.raises(RuntimeError):
            run(engine, three)

    np.testing.assert_array_equal(run(engine, two), [[6, 7]])


def compile_sum_of_two_tokens() -> ov.CompiledModel:
    """Compile a graph for exactly one sequence of two tokens; it adds the mask to the ids."""
    input_ids, attention_mask = (
        opset.parameter([1, 2], np.int32, name=name) for name in ("input_ids", "attention_mask")
    )
    for parameter in (input_ids, attention_mask):
        parameter.output(0).set_names({parameter.get_friendly_name()})
    total = opset.convert(opset.add(input_ids, attention_mask), np.float32)
    total.output(0).set_names({"embeddings"})
    return ov.compile_model(ov.Model([total], [input_ids, attention_mask]), "CPU")


@pytest.mark.parametrize(
    ("num_threads", "num_slots"), [(1, 1), (2, 2), (8, 8), (16, 8), (24, 8), (32, 8), (64, 16)]
)
def test_threads_are_shared_out_over_slots(num_threads: int, num_slots: int) -> None:
    assert default_num_slots(num_threads) == num_slots


def test_loading_chooses_slots_by_the_threads(artifact: EngineArtifact) -> None:
    engine = load_engine(artifact, EngineOptions(num_threads=2))

    assert engine.num_slots == 2


def test_loading_takes_the_slots_it_is_told(artifact: EngineArtifact) -> None:
    engine = load_engine(artifact, EngineOptions(num_slots=3, num_threads=1))

    assert engine.num_slots == 3


@pytest.mark.parametrize(
    ("max_num_tokens", "expected"), [(100, 100), (PREFERRED_NUM_TOKENS + 1, PREFERRED_NUM_TOKENS)]
)
def test_preferred_num_tokens_stays_within_the_engines_limit(
    artifact: EngineArtifact, max_num_tokens: int, expected: int
) -> None:
    limits = replace(artifact.manifest.limits, max_num_tokens=max_num_tokens)
    limited = replace(artifact, manifest=replace(artifact.manifest, limits=limits))

    engine = load_engine(limited, EngineOptions(num_threads=1))

    assert engine.preferred_num_tokens == expected


def test_a_bf16_engine_is_refused_on_a_cpu_without_bf16(
    artifact: EngineArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ov.Core, "get_property", lambda *_: ["FP32", "INT8", "BIN"])
    bf16 = replace(artifact, manifest=replace(artifact.manifest, precision="bf16"))

    with pytest.raises(ArtifactError, match="computes in bf16, which this CPU does not have"):
        load_engine(bf16, EngineOptions())


def test_a_f32_engine_needs_no_bf16(
    artifact: EngineArtifact, monkeypatch: pytest.MonkeyPatch, sequences: list[Int32]
) -> None:
    monkeypatch.setattr(ov.Core, "get_property", lambda *_: ["FP32"])

    engine = load_engine(artifact, EngineOptions(num_threads=1))

    assert len(run(engine, sequences[0])) == 1


def scribble(path: Path) -> None:
    path.write_bytes(b"<net>this is no graph</net>")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.xml", truncate),
        ("model.xml", scribble),
        ("model.xml", Path.unlink),
        ("model.bin", truncate),
        ("model.bin", Path.unlink),
    ],
)
def test_a_graph_that_openvino_cannot_read_is_an_artifact_error(
    artifact: EngineArtifact, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    broken = damaged(artifact, tmp_path, f"openvino/{name}", damage)

    with pytest.raises(ArtifactError, match=r"OpenVINO cannot compile .*model\.xml") as raised:
        load_engine(broken, EngineOptions(num_threads=1))

    assert raised.value.hint


def test_closing_an_engine_leaves_others_alone(
    artifact: EngineArtifact, engine: OpenVinoEngine, sequences: list[Int32]
) -> None:
    other = OpenVinoEngine.load(artifact, EngineOptions(num_slots=1, num_threads=1))
    expected = run(other, sequences[0])

    other.close()

    np.testing.assert_allclose(run(engine, sequences[0]), expected, rtol=0, atol=TOLERANCE)


FIRST_CALLS = """
import sys, threading
from pathlib import Path
import numpy as np
from beicli.artifact.directory import EngineArtifact
from beicli.engine.batch import Batch
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions

engine = load_engine(EngineArtifact.open(Path(sys.argv[1])), EngineOptions(num_slots=2))
# Threads that change places after every step meet inside the first call more often than not.
sys.setswitchinterval(1e-6)
start = threading.Barrier(2)

def call():
    batch = batch_of(np.ones(4, dtype=np.int32))
    start.wait()
    engine.forward(batch)

threads = [threading.Thread(target=call, daemon=True) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join(20)
sys.exit(any(thread.is_alive() for thread in threads))
"""


@pytest.mark.parametrize("attempt", range(4))
def test_two_first_calls_at_once_do_not_wait_for_each_other(
    artifact: EngineArtifact, attempt: int
) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALLS, artifact.path], check=False)

    assert done.returncode == 0


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [(1, 4), (4, 4), (5, 8), (16, 16), (17, 24), (33, 40), (64, 64), (65, 80), (500, 512)],
)
def test_lengths_go_up_in_steps_that_attention_computes_at_once(
    num_tokens: int, expected: int
) -> None:
    assert round_up_length(num_tokens) == expected


def test_no_batch_is_padded_beyond_what_an_input_may_have(engine: OpenVinoEngine) -> None:
    # Beyond it a checkpoint may have no positions.
    limit = MANIFEST.limits.max_input_length

    assert engine.padded_length(3) == 4
    assert engine.padded_length(limit) == limit
    assert engine.padded_length(limit - 1) == limit
