"""What can be known of CUDA without a GPU: that every function is called as its bindings want."""

import ast
import ctypes
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beicli.engine.tensorrt import cuda
from beicli.engine.tensorrt.cuda import STICKY, CudaDevice
from beicli.engine.tensorrt.device import (
    Address,
    DeviceLostError,
    DeviceMemory,
    DeviceOutOfMemoryError,
    Event,
    Graph,
    Stream,
)
from beicli.errors import BeiError, EngineError, GpuUnavailableError, ToolMissingError

runtime: Any = pytest.importorskip("cuda.bindings.runtime")
STREAM, EVENT, GRAPH, ADDRESS = Stream(11), Event(12), Graph(13), Address(4096)


class RecordedRuntime:
    """The real bindings' names, types and signatures; a call is noted, and succeeds.

    failing: the error of each function that fails, by its name.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: dict[str, Any] = {}
        self.values: dict[str, tuple[object, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if not name.startswith("cuda") or not callable(real) or inspect.isclass(real):
            return real
        if name in {"cudaGetErrorString", "cudaGetErrorName"}:
            return real
        return lambda *arguments: self._call(name, real, arguments)

    def _call(
        self, name: str, real: Callable[..., tuple[Any, ...]], arguments: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        self.calls.append((name, arguments))
        # Without a driver the bindings still convert the arguments, and say what is wrong with
        # them; and they give as many values as they do with one.
        answer = real(*arguments)
        success = runtime.cudaError_t.cudaSuccess
        error = self.failing.get(name, success)
        if error != success:
            return (error, *[None] * (len(answer) - 1))
        values = self.values.get(name, tuple(range(64, 64 + len(answer) - 1)))
        assert len(values) == len(answer) - 1
        return (success, *values)


def is_gpu_here() -> bool:
    error, count = runtime.cudaGetDeviceCount()
    return error.value == 0 and bool(count)


pytestmark = pytest.mark.skipif(is_gpu_here(), reason="made-up addresses would reach a GPU")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordedRuntime:
    made = RecordedRuntime()
    monkeypatch.setattr(cuda, "_import_runtime", lambda: made)
    return made


@pytest.fixture
def device(recorded: RecordedRuntime) -> DeviceMemory:
    made = CudaDevice(3)
    assert recorded.calls == [("cudaSetDevice", (3,))]
    recorded.calls.clear()
    return made


def test_without_a_driver_it_says_what_cuda_says() -> None:
    with pytest.raises(GpuUnavailableError, match=r"cudaError(InsufficientDriver|NoDevice)"):
        CudaDevice(0)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)

    with pytest.raises(ToolMissingError, match="cuda-bindings") as caught:
        CudaDevice(0)

    assert caught.value.hint is not None
    assert "beicli[tensorrt]" in caught.value.hint


def test_memory_is_allocated_and_freed(recorded: RecordedRuntime, device: DeviceMemory) -> None:
    assert device.allocate(100) == 64
    device.free(ADDRESS)
    info = device.memory_info()

    assert (info.free_bytes, info.total_bytes) == (64, 65)
    assert recorded.calls == [
        ("cudaMalloc", (100,)),
        ("cudaFree", (ADDRESS,)),
        ("cudaMemGetInfo", ()),
    ]


def test_pinned_memory_is_that_of_cuda_and_freed_by_its_address(
    recorded: RecordedRuntime, device: DeviceMemory
) -> None:
    block = ctypes.create_string_buffer(b"abcdefgh", 8)
    recorded.values["cudaHostAlloc"] = (ctypes.addressof(block),)

    pinned = device.allocate_pinned(8)
    pinned[0] = ord("z")
    device.free_pinned(pinned)

    assert block.raw == b"zbcdefgh"
    assert pinned.dtype == np.uint8
    assert recorded.calls == [
        ("cudaHostAlloc", (8, 0)),
        ("cudaFreeHost", (ctypes.addressof(block),)),
    ]


def test_copies_name_target_source_size_direction_and_stream(
    recorded: RecordedRuntime, device: DeviceMemory
) -> None:
    pinned = np.zeros(10, dtype=np.uint8)
    part = pinned[2:6]

    device.copy_to_device(ADDRESS, part, STREAM)
    device.copy_to_host(part, ADDRESS, STREAM)

    host, kinds = pinned.ctypes.data + 2, runtime.cudaMemcpyKind
    assert recorded.calls == [
        ("cudaMemcpyAsync", (ADDRESS, host, 4, kinds.cudaMemcpyHostToDevice, STREAM)),
        ("cudaMemcpyAsync", (host, ADDRESS, 4, kinds.cudaMemcpyDeviceToHost, STREAM)),
    ]


def test_streams_and_events_are_made_used_and_destroyed(
    recorded: RecordedRuntime, device: DeviceMemory
) -> None:
    assert device.create_stream() == 64
    assert device.create_event() == 64
    device.record(EVENT, STREAM)
    device.wait(STREAM, EVENT)
    device.synchronize_event(EVENT)
    device.synchronize_stream(STREAM)
    device.destroy_event(EVENT)
    device.destroy_stream(STREAM)

    flags = runtime.cudaEventBlockingSync | runtime.cudaEventDisableTiming
    assert recorded.calls == [
        ("cudaStreamCreateWithFlags", (runtime.cudaStreamNonBlocking,)),
        ("cudaEventCreateWithFlags", (flags,)),
        ("cudaEventRecord", (EVENT, STREAM)),
        ("cudaStreamWaitEvent", (STREAM, EVENT, 0)),
        ("cudaEventSynchronize", (EVENT,)),
        ("cudaStreamSynchronize", (STREAM,)),
        ("cudaEventDestroy", (EVENT,)),
        ("cudaStreamDestroy", (STREAM,)),
    ]


def test_a_graph_is_captured_in_this_thread_only_and_launched(
    recorded: RecordedRuntime, device: DeviceMemory
) -> None:
    # A graph is a pointer, and what stands for one is only looked at.
    recorded.values["cudaStreamEndCapture"] = (runtime.cudaGraph_t(77),)
    recorded.values["cudaGraphInstantiate"] = (runtime.cudaGraphExec_t(88),)

    graph = device.capture(STREAM, lambda: device.record(EVENT, STREAM))
    device.launch_graph(graph, STREAM)
    device.destroy_graph(graph)

    assert graph == 88
    assert [name for name, _ in recorded.calls] == [
        "cudaStreamBeginCapture",
        "cudaEventRecord",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphDestroy",
        "cudaGraphLaunch",
        "cudaGraphExecDestroy",
    ]
    _, mode = recorded.calls[0][1]
    assert mode == runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal


def test_a_capture_that_fails_inside_is_ended_and_passes_the_failure_on(
    recorded: RecordedRuntime, device: DeviceMemory
) -> None:
    recorded.values["cudaStreamEndCapture"] = (runtime.cudaGraph_t(77),)

    def refuse() -> None:
        raise EngineError("no")

    with pytest.raises(EngineError, match=r"^no$"):
        device.capture(STREAM, refuse)

    assert [name for name, _ in recorded.calls] == [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphDestroy",
    ]


def test_a_capture_that_was_broken_by_its_content_is_ended_once(
    recorded: RecordedRuntime, device: DeviceMemory
) -> None:
    error = runtime.cudaError_t.cudaErrorStreamCaptureInvalidated
    recorded.failing["cudaStreamEndCapture"] = error

    with pytest.raises(EngineError, match="cudaErrorStreamCaptureInvalidated"):
        device.capture(STREAM, lambda: None)
    with pytest.raises(ZeroDivisionError):
        device.capture(STREAM, lambda: _ignore(1 // 0))

    names = [name for name, _ in recorded.calls]
    assert names == ["cudaStreamBeginCapture", "cudaStreamEndCapture"] * 2


def test_a_captured_graph_is_destroyed_also_if_nothing_can_be_made_of_it(
    recorded: RecordedRuntime, device: DeviceMemory
) -> None:
    recorded.values["cudaStreamEndCapture"] = (runtime.cudaGraph_t(77),)
    recorded.failing["cudaGraphInstantiate"] = runtime.cudaError_t.cudaErrorMemoryAllocation

    with pytest.raises(DeviceOutOfMemoryError):
        device.capture(STREAM, lambda: None)

    assert recorded.calls[-1][0] == "cudaGraphDestroy"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudaErrorMemoryAllocation", DeviceOutOfMemoryError),
        ("cudaErrorIllegalAddress", DeviceLostError),
        ("cudaErrorECCUncorrectable", DeviceLostError),
        ("cudaErrorNoDevice", GpuUnavailableError),
        ("cudaErrorInvalidValue", EngineError),
    ],
)
def test_a_failure_is_the_error_that_it_means_with_the_name_cuda_gives_it(
    recorded: RecordedRuntime, device: DeviceMemory, name: str, kind: type[BeiError]
) -> None:
    recorded.failing["cudaMalloc"] = getattr(runtime.cudaError_t, name)

    with pytest.raises(BeiError, match=f"CUDA answers {name} to cudaMalloc: [a-z]") as caught:
        device.allocate(1)

    assert type(caught.value) is kind


# Of calls of TensorRT, which has a runtime of its own, `cudaGetLastError` knows nothing.
@pytest.mark.parametrize("function", ["cudaGetLastError", "cudaMemGetInfo"])
def test_a_check_tells_a_lost_gpu_from_a_call_that_failed(
    recorded: RecordedRuntime, device: DeviceMemory, function: str
) -> None:
    recorded.failing[function] = runtime.cudaError_t.cudaErrorInvalidValue
    device.check()
    recorded.failing[function] = runtime.cudaError_t.cudaErrorLaunchFailure

    with pytest.raises(DeviceLostError, match="cudaErrorLaunchFailure"):
        device.check()


def test_whatever_cuda_says_needs_a_new_process_is_sticky() -> None:
    by_the_reference = {
        error.name for error in runtime.cudaError_t if "relaunched" in (error.__doc__ or "")
    }

    assert len(by_the_reference) > 10
    assert by_the_reference <= STICKY
    assert set(runtime.cudaError_t.__members__) >= STICKY


def test_the_bindings_have_every_name_that_is_used() -> None:
    """Any name in the module's source that its bindings do not have would show only on a GPU."""
    tree = ast.parse(Path(cuda.__file__).read_text())
    used = {
        str(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and str(node.value).startswith("cuda")
    }
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {name for name in used if name.startswith("cuda") and name.isidentifier()}

    known = set(dir(runtime)) | set(runtime.cudaError_t.__members__)
    known |= set(runtime.cudaMemcpyKind.__members__)
    known |= set(runtime.cudaStreamCaptureMode.__members__)
    assert len(names) > 30
    assert names <= known


def _ignore(_: object) -> None:
    """Make a function that returns nothing of an expression."""
