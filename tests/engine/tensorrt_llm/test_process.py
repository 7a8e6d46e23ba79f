"""The worker in a real process: what it computes, and how each way to fail is told."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engine.tensorrt_llm.fakes import TABLE, fake_python, options, table_checkpoint

from beicli.engine.batch import Float32
from beicli.engine.tensorrt_llm.process import WorkerProcess
from beicli.errors import ArtifactError, EngineError, ToolMissingError

IDS = np.arange(10, dtype=np.int32)
LENGTHS = [3, 1, 6]
EXPECTED = np.stack([TABLE[0:3].mean(axis=0), TABLE[3], TABLE[4:10].mean(axis=0)])


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    directory = tmp_path_factory.mktemp("worker")
    process = WorkerProcess(options(fake_python(directory), table_checkpoint(directory)))
    yield process
    process.close()


def encode(worker: WorkerProcess) -> Float32:
    return worker.encode(LENGTHS, IDS, None)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def living_members(group: int) -> list[int]:
    """Return the processes of a group; not those that have ended and that nobody asked about."""
    living = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state != "Z":
            living.append(int(path.parent.name))
    return living


def test_outputs_are_those_of_each_sequence_in_float32(worker: WorkerProcess) -> None:
    outputs = encode(worker)

    assert worker.version == "1.3.0"
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, EXPECTED, rtol=1e-6)


def test_one_sequence_is_a_batch_too(worker: WorkerProcess) -> None:
    np.testing.assert_allclose(worker.encode([10], IDS, None), TABLE[:10].mean(axis=0)[None])


def test_type_ids_are_given_one_for_each_token(worker: WorkerProcess) -> None:
    type_ids = np.array([0, 0, 1, 0, 1, 1, 1, 1, 1, 1], dtype=np.int32)

    outputs = worker.encode(LENGTHS, IDS, type_ids)

    counted = TABLE[:10] * (1 + type_ids)[:, None]
    expected = np.stack([counted[a:b].mean(axis=0) for a, b in ((0, 3), (3, 4), (4, 10))])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[1] * 5, [32, 32, 1], [33]], ids=["batch", "tokens", "length"])
def test_beyond_its_limits_it_refuses_and_goes_on(
    worker: WorkerProcess, lengths: list[int]
) -> None:
    with pytest.raises(EngineError, match="TensorRT-LLM failed: ValueError: "):
        worker.encode(lengths, np.ones(sum(lengths), dtype=np.int32), None)

    np.testing.assert_allclose(encode(worker), EXPECTED, rtol=1e-6)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("crash", "ended with exit code 7: CUDA error: an illegal memory access"),
        ("abort", "ended by signal 6: "),
        ("garbage", "said what was not understood: b'what a library p' begins no message"),
    ],
)
def test_a_worker_that_fails_within_a_batch_is_dead_and_says_how(
    tmp_path: Path, how: str, words: str
) -> None:
    checkpoint = table_checkpoint(tmp_path, encode=how, good_calls=1)
    worker = WorkerProcess(options(fake_python(tmp_path), checkpoint))
    encode(worker)

    with pytest.raises(EngineError) as failed:
        encode(worker)

    assert words in failed.value.message
    assert not worker.is_alive
    worker.close()


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    checkpoint = table_checkpoint(tmp_path, encode="hang", good_calls=0)
    worker = WorkerProcess(options(fake_python(tmp_path), checkpoint, encode_timeout_s=0.3))

    with pytest.raises(EngineError, match=r"did not answer for 0\.3 s, and was ended"):
        encode(worker)

    assert not worker.is_alive
    assert not is_running(worker.pid)
    # Nor does what it had started hold the GPU any more.
    deadline = time.monotonic() + 10
    while living_members(worker.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert living_members(worker.pid) == []
    worker.close()


def test_a_signal_to_the_server_s_group_is_not_one_to_the_worker(worker: WorkerProcess) -> None:
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("error", "CUDA out of memory"), ("one too few", "3 sequences gave 2 outputs")],
)
def test_an_error_is_passed_on_and_the_worker_lives(
    tmp_path: Path, behaviour: str, words: str
) -> None:
    checkpoint = table_checkpoint(tmp_path, encode=behaviour, good_calls=0)
    worker = WorkerProcess(options(fake_python(tmp_path), checkpoint))

    with pytest.raises(EngineError, match=words):
        encode(worker)

    assert worker.is_alive
    worker.close()
    assert not is_running(worker.pid)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.2.1", "TensorRT-LLM 1.2.1 has no `LLM.encode`"),
        ("no encode_only", "TensorRT-LLM 1.3.0 has no `encode_only`"),
    ],
)
def test_a_version_that_cannot_encode_is_told(tmp_path: Path, version: str, words: str) -> None:
    old = options(
        fake_python(tmp_path),
        table_checkpoint(tmp_path),
        variables={"FAKE_TENSORRT_LLM": version},
    )

    with pytest.raises(ToolMissingError) as missing:
        WorkerProcess(old)

    assert missing.value.message.endswith(words)
    assert missing.value.hint is not None


def test_libraries_that_do_not_load_are_told(tmp_path: Path) -> None:
    broken = options(
        fake_python(tmp_path),
        table_checkpoint(tmp_path),
        variables={"FAKE_TENSORRT_LLM": "broken"},
    )

    with pytest.raises(ArtifactError, match=r"cannot be imported: OSError: libcuda\.so\.1"):
        WorkerProcess(broken)


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        ("error", ArtifactError, "cannot load .*: RuntimeError: CUDA out of memory"),
        ("crash", EngineError, "ended with exit code 7"),
        ("hang", EngineError, "did not answer for 1 s"),
    ],
)
def test_a_model_that_does_not_load_leaves_no_process(
    tmp_path: Path, behaviour: str, error: type[Exception], words: str
) -> None:
    checkpoint = table_checkpoint(tmp_path, load=behaviour)
    timeout_s = 1.0 if behaviour == "hang" else 60.0

    with pytest.raises(error, match=words):
        WorkerProcess(options(fake_python(tmp_path), checkpoint, load_timeout_s=timeout_s))


def test_arguments_that_the_real_class_lacks_are_refused_by_the_stand_in(tmp_path: Path) -> None:
    wrong = options(fake_python(tmp_path), table_checkpoint(tmp_path), dtype="bf16")

    with pytest.raises(ArtifactError, match="unknown dtype bf16"):
        WorkerProcess(wrong)
