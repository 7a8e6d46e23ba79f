"""The whole server with an engine for a GPU: all of it is real but the GPU and its kernels.

The directory, its plan and its manifest are a build's; a fake device checks every copy and stream;
and what the GPU would compute, the interpreter computes of the network that TensorRT has parsed.
"""

import asyncio
import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tests.builder.builds import run_build, write_config
from tests.builder.tiny_models import save_checkpoint, vocab_size
from tests.engine.tensorrt.fake_device import FakeDevice
from tests.engine.tensorrt.fake_tensorrt import (
    Behaviour,
    FakeCudaEngine,
    FakeRtxRuntimeConfig,
    fake_trt,
)
from tests.server.fakes import TIMEOUT_S
from tests.tensorrt.interpreter import NetworkInterpreter

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.gpu import PLANS_DIRECTORY, TENSORRT_GRAPH
from beicli.engine.options import EngineOptions, GpuOptions
from beicli.engine.tensorrt import load as tensorrt_load
from beicli.errors import ArtifactError, EngineLostError, GpuUnavailableError, PlanError
from beicli.pipeline.pipeline import compute_outputs
from beicli.server.lifecycle import Lifecycle
from beicli.server.options import ServerOptions
from beicli.server.run import serve
from beicli.tensorrt import api, driver
from beicli.tensorrt.api import Messages, collection_paused, load_trt, make_logger
from beicli.tensorrt.compiler import parse_graph
from beicli.tensorrt.driver import CudaDevice, Driver

L4 = CudaDevice(0, "NVIDIA L4", 89, 24 * 10**9)
A10 = CudaDevice(1, "NVIDIA A10", 86, 24 * 10**9)
H100 = CudaDevice(0, "NVIDIA H100", 90, 80 * 10**9)
TEXTS = [
    "A short text.",
    "the same words in another order, and then some more of them",
    "a",
    "What is the capital of a country that nobody has heard of?",
] * 3


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineArtifact, EngineArtifact]:
    """Build the same tiny BERT for an L4 and for this CPU."""
    directory = tmp_path_factory.mktemp("engines")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        vocab_size=vocab_size(),
    )
    checkpoint = save_checkpoint(directory / "bert", transformers.BertModel(config).eval())
    loaded = write_config(directory, checkpoint, max_num_tokens=512, max_batch_size=16)
    gpu = run_build(loaded, directory / "gpu", sm=89, precision=None)
    cpu = run_build(loaded, directory / "cpu")
    return gpu.artifact, cpu.artifact


@pytest.fixture
def copy(engines: tuple[EngineArtifact, EngineArtifact], tmp_path: Path) -> EngineArtifact:
    """A copy of the engine for the L4, whose directory a test may change."""
    # Servers of other tests may have kept kernels with the engine.
    directory = shutil.copytree(
        engines[0].path, tmp_path / "engine", ignore=shutil.ignore_patterns("*.kernels")
    )
    return EngineArtifact(directory, engines[0].manifest)


class Gpu:
    """A machine with a GPU: its driver, and TensorRT with a runtime that works."""

    def __init__(self, artifact: EngineArtifact) -> None:
        self.device = FakeDevice()
        assert artifact.manifest.gpu is not None
        num_profiles = len(artifact.manifest.gpu.profiles)
        self.behaviour = Behaviour(scratch_bytes=(4096,) * num_profiles)
        self.num_refusals = 0
        self.says = ""
        self.loaded_plans: list[bytes] = []
        self._artifact = artifact
        self._trt = load_trt("tensorrt-rtx")
        self._messages = Messages()
        self._logger = make_logger(self._trt, self._messages)
        with collection_paused():
            self._network = self._parse()
        self._interpreter = NetworkInterpreter(self._trt, self._network)
        self._lock = threading.Lock()
        self.runtime_caches: list[_RuntimeCache] = []

    def module(self) -> ModuleType:
        """Return TensorRT with this machine's runtime in place of the one that needs a GPU."""
        module = ModuleType("tensorrt_rtx")
        vars(module).update(vars(self._trt))
        for name, value in vars(fake_trt("tensorrt-rtx")).items():
            # The compiler is real, and takes its own.
            if name not in {"BuilderFlag", "ComputeCapability", "LayerType", "__name__"}:
                setattr(module, name, value)
        module.Runtime = functools.partial(_Runtime, self)  # type: ignore[attr-defined]
        return module

    def deserialize(self, plan: bytes) -> FakeCudaEngine | None:
        if self.num_refusals > 0:
            self.num_refusals -= 1
            return None
        self.loaded_plans.append(plan)
        engine = FakeCudaEngine(
            "tensorrt-rtx", self.device, self._artifact.manifest, self._compute, self.behaviour
        )
        return _with_caches(engine, self.runtime_caches)

    def _compute(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        with self._lock:
            return self._interpreter.run(inputs)

    def _parse(self) -> Any:
        self._builder = self._trt.Builder(self._logger)
        network = self._builder.create_network(0)
        graph = self._artifact.path / TENSORRT_GRAPH
        self._parser = parse_graph(self._trt, network, graph, self._logger, self._messages)
        return network


class _RuntimeCache:
    """IRuntimeCache, of kernels that are finished once."""

    given = b""

    def deserialize(self, blob: bytes) -> bool:
        self.given = blob
        return True

    def serialize(self) -> bytes:
        return b"kernels"


def _with_caches(engine: FakeCudaEngine, caches: list[_RuntimeCache]) -> FakeCudaEngine:
    """Let the configurations of an engine make caches, which are kept in `caches`."""

    class Config(FakeRtxRuntimeConfig):
        def create_runtime_cache(self) -> _RuntimeCache:
            caches.append(_RuntimeCache())
            return caches[-1]

    engine.create_runtime_config = Config  # type: ignore[method-assign]
    return engine


class _Runtime:
    """IRuntime."""

    engine_host_code_allowed = True

    def __init__(self, gpu: Gpu, logger: Any) -> None:
        self._gpu = gpu
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> FakeCudaEngine | None:
        assert self.engine_host_code_allowed is False
        engine = self._gpu.deserialize(plan)
        if engine is None:
            self._logger.log(self._logger.ERROR, self._gpu.says)
        return engine


@pytest.fixture
def gpu(engines: tuple[EngineArtifact, EngineArtifact], monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Make this a machine with an L4 and an A10."""
    machine = Gpu(engines[0])
    found = Driver(version=(13, 2), devices=(L4, A10))
    for module in (driver, api):
        monkeypatch.setattr(module, "read_driver", lambda: found)
    monkeypatch.setattr(tensorrt_load, "load_trt", lambda _flavor: machine.module())
    load = functools.partial(tensorrt_load.load, open_device=lambda _index: machine.device)
    monkeypatch.setattr(tensorrt_load, "load", load)
    return machine


class RunningServer:
    """A server of an engine directory, in a thread, as `bei serve` runs one."""

    def __init__(self, artifact: EngineArtifact, options: ServerOptions) -> None:
        self._ready: Future[str] = Future()
        self._done = ThreadPoolExecutor(1).submit(
            lambda: asyncio.run(self._serve(artifact, options))
        )
        self._done.add_done_callback(self._end)
        self.url = self._ready.result(TIMEOUT_S)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._lifecycle.stop)
        self.join()

    @property
    def has_ended(self) -> bool:
        return self._done.done()

    def join(self) -> None:
        """Wait for the end, and raise what it ended with."""
        self._done.result(TIMEOUT_S)

    async def _serve(self, artifact: EngineArtifact, options: ServerOptions) -> None:
        self._loop = asyncio.get_running_loop()
        self._lifecycle = Lifecycle(on_ready=self._ready.set_result)
        await serve([artifact], options, self._lifecycle)

    def _end(self, done: "Future[None]") -> None:
        error = done.exception()
        if error is not None and not self._ready.done():
            self._ready.set_exception(error)


def embed(url: str, texts: list[str]) -> NDArray[np.float32]:
    answer = httpx2.post(
        f"{url}/v1/embeddings", json={"input": texts}, timeout=httpx2.Timeout(TIMEOUT_S)
    )
    answer.raise_for_status()
    return np.array([row["embedding"] for row in answer.json()["data"]], dtype=np.float32)


@pytest.fixture
def start(
    engines: tuple[EngineArtifact, EngineArtifact],
) -> Iterator[Callable[..., RunningServer]]:
    started: list[RunningServer] = []

    def start_server(artifact: EngineArtifact = engines[0], **gpu_options: Any) -> RunningServer:
        options = ServerOptions(port=0, engine=EngineOptions(gpu=GpuOptions(**gpu_options)))
        started.append(RunningServer(artifact, options))
        return started[-1]

    yield start_server
    for server in started:
        if not server.has_ended:
            server.stop()


def test_a_server_answers_as_the_checkpoint_does(
    engines: tuple[EngineArtifact, EngineArtifact],
    gpu: Gpu,
    start: Callable[..., RunningServer],
) -> None:
    server = start()
    wanted = np.stack(compute_outputs(engines[1], TEXTS))

    found = embed(server.url, TEXTS)
    alone = np.concatenate([embed(server.url, [text]) for text in TEXTS])

    np.testing.assert_allclose(found, wanted, atol=2e-3)
    # Whoever else was in the batch, and whether it was launched from a recording.
    np.testing.assert_allclose(alone, found, atol=2e-3)
    info = httpx2.get(f"{server.url}/info").json()
    assert info["model_dtype"] == "float16"
    server.stop()
    gpu.device.assert_nothing_left()
    assert gpu.loaded_plans == [
        path.read_bytes() for path in (engines[0].path / PLANS_DIRECTORY).glob("*.plan")
    ]


def test_kernels_that_were_finished_are_kept_for_the_next_start(
    copy: EngineArtifact, gpu: Gpu, start: Callable[..., RunningServer]
) -> None:
    start(copy).stop()
    start(copy).stop()

    (kept,) = (copy.path / PLANS_DIRECTORY).glob("*.kernels")
    assert kept.read_bytes() == b"kernels"
    assert [cache.given for cache in gpu.runtime_caches] == [b"", b"kernels"]


def test_many_clients_each_get_their_own_answer(
    gpu: Gpu, start: Callable[..., RunningServer]
) -> None:
    server = start()
    words = [f"{chr(97 + number)} text of {'word ' * (number % 7)}" for number in range(24)]
    wanted = embed(server.url, words)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda word: embed(server.url, [word])[0], words * 2))

    np.testing.assert_allclose(answers, np.concatenate([wanted, wanted]), atol=2e-3)
    server.stop()
    gpu.device.assert_nothing_left()


def test_a_lost_gpu_fails_requests_at_once_and_ends_the_server(
    gpu: Gpu, start: Callable[..., RunningServer]
) -> None:
    server = start()
    gpu.device.lose("cudaErrorIllegalAddress")

    answer = httpx2.post(f"{server.url}/v1/embeddings", json={"input": "a text"})

    assert answer.status_code == 503
    with pytest.raises(EngineLostError, match="cudaErrorIllegalAddress"):
        server.join()


def test_a_batch_for_which_memory_runs_out_is_answered_in_parts(
    engines: tuple[EngineArtifact, EngineArtifact],
    gpu: Gpu,
    start: Callable[..., RunningServer],
) -> None:
    server = start(max_cuda_graphs=0)
    gpu.device.make_current()
    room = gpu.device.memory_info().free_bytes
    gpu.behaviour.working_bytes = lambda num_sequences, _length: (
        0 if num_sequences <= 2 else room + 1
    )

    found = embed(server.url, TEXTS)

    np.testing.assert_allclose(found, np.stack(compute_outputs(engines[1], TEXTS)), atol=2e-3)
    server.stop()


def test_a_plan_that_the_gpu_refuses_is_compiled_anew_once(
    copy: EngineArtifact, gpu: Gpu, start: Callable[..., RunningServer]
) -> None:
    gpu.num_refusals = 1

    server = start(copy)

    assert embed(server.url, ["a text"]).shape == (1, 32)
    server.stop()
    plans = copy.path / PLANS_DIRECTORY
    assert len(list(plans.glob("*.bad"))) == len(list(plans.glob("*.plan"))) == 1


def test_a_sound_plan_for_which_there_is_no_room_is_kept(
    gpu: Gpu, start: Callable[..., RunningServer], engines: tuple[EngineArtifact, EngineArtifact]
) -> None:
    gpu.num_refusals = 1
    gpu.says = "Error Code 2: OutOfMemory (Requested size was 1 bytes.)"

    with pytest.raises(PlanError, match="the GPU has no room for the plan") as raised:
        start()

    assert "--device-id" in (raised.value.hint or "")
    assert not list((engines[0].path / PLANS_DIRECTORY).glob("*.bad"))


def test_a_plan_that_is_refused_twice_is_an_error(
    copy: EngineArtifact, gpu: Gpu, start: Callable[..., RunningServer]
) -> None:
    gpu.num_refusals = 2

    with pytest.raises(PlanError, match="compiled just now does not load") as raised:
        start(copy)

    assert "bei doctor" in (raised.value.hint or "")


def test_without_compiling_a_plan_that_does_not_load_is_an_error(
    gpu: Gpu, start: Callable[..., RunningServer]
) -> None:
    gpu.num_refusals = 1

    with pytest.raises(PlanError, match="the plan does not load") as raised:
        start(may_compile=False)

    assert "--no-compile" in (raised.value.hint or "")


@pytest.mark.usefixtures("gpu")
def test_another_gpu_has_no_plan_yet(start: Callable[..., RunningServer]) -> None:
    with pytest.raises(PlanError, match="there is no plan for sm86 with tensorrt-rtx"):
        start(device_index=1, may_compile=False)


@pytest.mark.usefixtures("gpu")
def test_replicas_take_the_gpus_in_turn() -> None:
    chosen = []
    for number in range(4):
        options = EngineOptions(replica_number=number)
        chosen.append(tensorrt_load._choose_gpu(options).index)

    assert chosen == [0, 1, 0, 1]


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_is_not_there_is_an_error(start: Callable[..., RunningServer]) -> None:
    with pytest.raises(GpuUnavailableError, match="there is no GPU 7: the driver shows 2"):
        start(device_index=7)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_the_flavour_has_no_kernels_for_is_an_error(
    start: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "read_driver", lambda: Driver((13, 2), (H100,)))

    with pytest.raises(ArtifactError, match="cannot run on the NVIDIA H100: tensorrt-rtx has no"):
        start()


def test_a_machine_without_a_gpu_says_so_and_nothing_crashes(
    engines: tuple[EngineArtifact, EngineArtifact],
) -> None:
    # In a process of its own: what TensorRT does without a driver may be the end of one.
    done = subprocess.run(
        [sys.executable, "-m", "beicli", "serve", str(engines[0].path), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no NVIDIA driver: `libcuda.so.1` cannot be")
    assert "`bei doctor`" in done.stderr
    assert "Traceback" not in done.stderr
