"""A GPU through CUDA's runtime; the only place that imports `cuda`."""

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from beicli.engine.tensorrt.device import (
    Address,
    DeviceLostError,
    DeviceOutOfMemoryError,
    Event,
    Graph,
    HostBytes,
    MemoryInfo,
    Stream,
)
from beicli.errors import BeiError, EngineError, GpuUnavailableError, ToolMissingError

_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
_NO_GPU = frozenset({"cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorInvalidDevice"})
# Of the first group CUDA's reference says that any further work returns the same error until the
# process is relaunched.
STICKY = frozenset(
    {
        "cudaErrorAssert",
        "cudaErrorContained",
        "cudaErrorExternalDevice",
        "cudaErrorHardwareStackError",
        "cudaErrorIllegalAddress",
        "cudaErrorIllegalInstruction",
        "cudaErrorInvalidAddressSpace",
        "cudaErrorInvalidPc",
        "cudaErrorLaunchFailure",
        "cudaErrorLaunchTimeout",
        "cudaErrorMisalignedAddress",
        "cudaErrorMpsClientTerminated",
        "cudaErrorTensorMemoryLeak",
        # Memory or links that broke under a running kernel, and a context that is gone: the
        # reference does not say so, but nothing brings them back in this process either.
        "cudaErrorContextIsDestroyed",
        "cudaErrorECCUncorrectable",
        "cudaErrorNvlinkUncorrectable",
        # Nobody knows what it was, so nobody can say that what follows is computed right.
        "cudaErrorUnknown",
    }
)


class CudaDevice:
    """The GPU of an index, as CUDA counts; implements `DeviceMemory`.

    Raises ToolMissingError without the package `cuda-bindings`, and GpuUnavailableError without a
    driver or such a GPU.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._cuda = _import_runtime()
        self.make_current()

    def make_current(self) -> None:
        self._call("cudaSetDevice", self._index)

    def check(self) -> None:
        # Whatever failed before was raised by the call that failed, or is an error of TensorRT's
        # own calls, about which TensorRT has said more. TensorRT has a CUDA runtime of its own, so
        # the last error does not tell of those; but on a lost GPU any call fails, the first here
        # too. Asking for the last also makes CUDA forget it.
        for function in ("cudaMemGetInfo", "cudaGetLastError"):
            error, *_ = getattr(self._cuda, function)()
            if error.name in STICKY:
                raise self._failure(function, error)

    def memory_info(self) -> MemoryInfo:
        free_bytes, total_bytes = self._call("cudaMemGetInfo")
        return MemoryInfo(free_bytes=free_bytes, total_bytes=total_bytes)

    def allocate(self, size_bytes: int) -> Address:
        (address,) = self._call("cudaMalloc", size_bytes)
        return Address(int(address))

    def free(self, address: Address) -> None:
        self._call("cudaFree", address)

    def allocate_pinned(self, size_bytes: int) -> HostBytes:
        (address,) = self._call("cudaHostAlloc", size_bytes, self._cuda.cudaHostAllocDefault)
        memory = (ctypes.c_uint8 * size_bytes).from_address(int(address))
        return np.ctypeslib.as_array(memory)

    def free_pinned(self, pinned: HostBytes) -> None:
        self._call("cudaFreeHost", pinned.ctypes.data)

    def copy_to_device(self, target: Address, source: HostBytes, stream: Stream) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def copy_to_host(self, target: HostBytes, source: Address, stream: Stream) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def create_stream(self) -> Stream:
        # Otherwise it waits for the default stream, which libraries may use.
        (stream,) = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        return Stream(int(stream))

    def destroy_stream(self, stream: Stream) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize_stream(self, stream: Stream) -> None:
        self._call("cudaStreamSynchronize", stream)

    def create_event(self) -> Event:
        # Whoever waits sleeps: a thread that spins would take a CPU from the tokenizer.
        flags = self._cuda.cudaEventBlockingSync | self._cuda.cudaEventDisableTiming
        (event,) = self._call("cudaEventCreateWithFlags", flags)
        return Event(int(event))

    def destroy_event(self, event: Event) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: Event, stream: Stream) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: Stream, event: Event) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: Event) -> None:
        self._call("cudaEventSynchronize", event)

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        # Of this thread: others go on allocating and copying, which a global capture forbids.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            self._abandon_capture(stream)
            raise
        (captured,) = self._call("cudaStreamEndCapture", stream)
        try:
            (graph,) = self._call("cudaGraphInstantiate", captured, 0)
        finally:
            self._call("cudaGraphDestroy", captured)
        return Graph(int(graph))

    def launch_graph(self, graph: Graph, stream: Stream) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Graph) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def _abandon_capture(self, stream: Stream) -> None:
        """End a capture that nobody wants; its own failure is not what went wrong."""
        error, captured = self._cuda.cudaStreamEndCapture(stream)
        if error.value == 0 and int(captured) != 0:
            self._cuda.cudaGraphDestroy(captured)

    def _call(self, function: str, *arguments: object) -> tuple[Any, ...]:
        """Call a function of CUDA's runtime; return what it gives beside the error."""
        error, *values = getattr(self._cuda, function)(*arguments)
        if error.value != 0:
            raise self._failure(function, error)
        return tuple(values)

    def _failure(self, function: str, error: Any) -> BeiError:
        _, text = self._cuda.cudaGetErrorString(error)
        what = f"CUDA answers {error.name} to {function}: {(text or b'').decode()}"
        if error.name == _OUT_OF_MEMORY:
            return DeviceOutOfMemoryError(what, hint="another process may hold the GPU's memory")
        if error.name in STICKY:
            return DeviceLostError(
                what, hint="restart the server; `dmesg` may say what the GPU did"
            )
        if error.name in _NO_GPU:
            hint = "see `bei doctor`, and `CUDA_VISIBLE_DEVICES`"
            return GpuUnavailableError(what, hint=hint)
        return EngineError(what)


def _import_runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise ToolMissingError(
            f"the package `cuda-bindings` cannot be imported: {error}",
            hint="install it with `pip install 'beicli[tensorrt]'`, or `'beicli[tensorrt-rtx]'`",
        ) from error
