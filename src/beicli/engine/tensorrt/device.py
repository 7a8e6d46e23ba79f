"""What the runtime asks of a GPU: memory, copies, streams, events and recorded launches.

All that is done with CUDA passes through here, so that a fake which checks order and sizes may
take its place. Work is put in a stream and done in the order of the stream; streams go side by
side, and only events make one wait for another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType, Protocol

import numpy as np
from numpy.typing import NDArray

from beicli.errors import EngineError, EngineLostError

# Of memory on the GPU. TensorRT wants them as plain numbers, as it does streams.
Address = NewType("Address", int)
Stream = NewType("Stream", int)
Event = NewType("Event", int)
# A recorded launch.
Graph = NewType("Graph", int)
# Memory of the host, as bytes.
HostBytes = NDArray[np.uint8]


class DeviceOutOfMemoryError(EngineError):
    """The GPU has no room for something; what needs less may still be done."""


class DeviceLostError(EngineLostError):
    """The GPU failed in a way after which every call fails, until the process is a new one."""


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Memory of the GPU; other processes have a share of what is not free."""

    free_bytes: int
    total_bytes: int


class DeviceMemory(Protocol):
    """One GPU, and the host memory that it copies from and to.

    Every method may raise DeviceOutOfMemoryError, DeviceLostError, or EngineError with the name
    that CUDA gives the failure. What fails in a stream is raised by whoever waits for it, or by
    any later call.
    """

    def make_current(self) -> None:
        """Let the calling thread use this GPU; each thread asks before its first other call."""
        ...

    def check(self) -> None:
        """Raise DeviceLostError if something failed that nothing mends."""
        ...

    def memory_info(self) -> MemoryInfo: ...

    def allocate(self, size_bytes: int) -> Address:
        """Return uninitialised memory of the GPU, aligned to 256 bytes."""
        ...

    def free(self, address: Address) -> None: ...

    def allocate_pinned(self, size_bytes: int) -> HostBytes:
        """Return host memory that stays in place, which copies need to go on by themselves."""
        ...

    def free_pinned(self, pinned: HostBytes) -> None:
        """Free what `allocate_pinned` returned; no view of it may be used any more."""
        ...

    def copy_to_device(self, target: Address, source: HostBytes, stream: Stream) -> None:
        """Copy all of `source`, pinned and contiguous, when the stream comes to it."""
        ...

    def copy_to_host(self, target: HostBytes, source: Address, stream: Stream) -> None:
        """Fill all of `target`, pinned and contiguous, when the stream comes to it."""
        ...

    def create_stream(self) -> Stream:
        """Return a stream that waits for no other unless told to."""
        ...

    def destroy_stream(self, stream: Stream) -> None: ...

    def synchronize_stream(self, stream: Stream) -> None:
        """Wait until all that is in the stream is done."""
        ...

    def create_event(self) -> Event: ...

    def destroy_event(self, event: Event) -> None: ...

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event happen when what is in the stream now is done."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """Hold back what is put in the stream from now on until the event has happened."""
        ...

    def synchronize_event(self, event: Event) -> None:
        """Wait until the event has happened; other threads may run meanwhile."""
        ...

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """Return a graph of what `enqueue` puts in the stream, none of which is done.

        Nothing else may be put in the stream meanwhile. Whatever `enqueue` raises is passed on;
        the stream may be used as before then, too.
        """
        ...

    def launch_graph(self, graph: Graph, stream: Stream) -> None:
        """Put all that was captured in the stream, by one call."""
        ...

    def destroy_graph(self, graph: Graph) -> None: ...
