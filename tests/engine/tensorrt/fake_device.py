"""A GPU on the CPU that forgives nothing.

Work put in a stream is done only when somebody waits for it, or, with `rng`, at any moment that
the order allows; so whoever touches memory too early gets wrong numbers, or poison. Memory is
found by its address, as on a GPU, and every address must lie in memory that is there.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
from beicli.errors import EngineError

_FIRST_ADDRESS = 0x7F00_0000_0000
_ALIGNMENT = 256
# Between blocks, so that who runs over the end of one does not land in the next.
_GAP = 4096
_UNINITIALISED = 0xCD
_FREED = 0xDD


class StickyError(Exception):
    """What work in a stream raises to break the GPU for good; the name that CUDA gives it."""


@dataclass(slots=True, eq=False)
class _Mark:
    """A place in a stream: what an event that was recorded there stands for."""

    stream: Stream
    is_done: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Wait:
    mark: _Mark


_Operation = Callable[[], None] | _Mark | _Wait


class FakeDevice:
    """Implements `DeviceMemory`.

    memory_bytes: what the GPU has. rng: does waiting work now and then, in an order of its own.
    before_waiting: called by every thread that begins to wait for an event.
    log: names of the calls that put work in streams, with the stream.
    """

    def __init__(self, *, memory_bytes: int = 1 << 34, rng: random.Random | None = None) -> None:
        self.memory_bytes = memory_bytes
        self.before_waiting: Callable[[], object] = lambda: None
        self.fails_to_instantiate = False
        self.log: list[tuple[str, Stream]] = []
        self.num_graphs_made = 0
        self._rng = rng
        self._lock = threading.RLock()
        self._blocks: dict[int, HostBytes] = {}
        self._pinned: dict[int, HostBytes] = {}
        self._streams: dict[Stream, deque[_Operation]] = {}
        self._events: dict[Event, _Mark | None] = {}
        self._graphs: dict[Graph, list[Callable[[], None]]] = {}
        self._captures: dict[Stream, tuple[int, list[Callable[[], None]]]] = {}
        self._reserved_bytes = 0
        self._next = _FIRST_ADDRESS
        self._threads: set[int] = set()
        self._lost: str | None = None

    # What the engine calls.

    def make_current(self) -> None:
        self._threads.add(threading.get_ident())
        with self._called():
            pass

    def check(self) -> None:
        with self._called():
            pass

    def memory_info(self) -> MemoryInfo:
        with self._called():
            return MemoryInfo(self.memory_bytes - self.used_bytes, self.memory_bytes)

    def allocate(self, size_bytes: int) -> Address:
        assert size_bytes > 0
        with self._called():
            self._need(size_bytes)
            return Address(self._place(self._blocks, np.empty(size_bytes, np.uint8)))

    def free(self, address: Address) -> None:
        with self._called():
            self._blocks.pop(address).fill(_FREED)

    def allocate_pinned(self, size_bytes: int) -> HostBytes:
        assert size_bytes > 0
        with self._called():
            pinned = np.full(size_bytes, _UNINITIALISED, np.uint8)
            self._pinned[pinned.ctypes.data] = pinned
            return pinned

    def free_pinned(self, pinned: HostBytes) -> None:
        with self._called():
            self._pinned.pop(pinned.ctypes.data).fill(_FREED)

    def copy_to_device(self, target: Address, source: HostBytes, stream: Stream) -> None:
        def copy() -> None:
            self._check_pinned(source)
            self.view(target, source.nbytes)[:] = source

        with self._called():
            self._put("copy_to_device", copy, stream)

    def copy_to_host(self, target: HostBytes, source: Address, stream: Stream) -> None:
        def copy() -> None:
            self._check_pinned(target)
            target[:] = self.view(source, target.nbytes)

        with self._called():
            self._put("copy_to_host", copy, stream)

    def create_stream(self) -> Stream:
        with self._called():
            stream = Stream(self._new_handle())
            self._streams[stream] = deque()
            return stream

    def destroy_stream(self, stream: Stream) -> None:
        with self._called():
            assert not self._streams.pop(stream), "a stream is destroyed with work in it"

    def synchronize_stream(self, stream: Stream) -> None:
        with self._called():
            assert stream not in self._captures, "waiting is not allowed while capturing"
            while self._streams[stream] and self._lost is None:
                self._force(stream)

    def create_event(self) -> Event:
        with self._called():
            event = Event(self._new_handle())
            self._events[event] = None
            return event

    def destroy_event(self, event: Event) -> None:
        with self._called():
            del self._events[event]

    def record(self, event: Event, stream: Stream) -> None:
        with self._called():
            assert event in self._events
            mark = _Mark(stream)
            self._put("record", mark, stream)
            self._events[event] = mark

    def wait(self, stream: Stream, event: Event) -> None:
        with self._called():
            mark = self._events[event]
            if mark is not None:
                self._put("wait", _Wait(mark), stream)

    def synchronize_event(self, event: Event) -> None:
        self.before_waiting()
        with self._called():
            mark = self._events[event]
            if mark is not None:
                self._complete(mark)

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        with self._called():
            assert stream not in self._captures
            self._captures[stream] = (threading.get_ident(), [])
        try:
            # Not under the lock: others may come between, and must not.
            enqueue()
        finally:
            with self._lock:
                _, captured = self._captures.pop(stream)
        with self._called():
            if self.fails_to_instantiate:
                raise EngineError("cudaErrorStreamCaptureInvalidated")
            self.num_graphs_made += 1
            graph = Graph(self._new_handle())
            self._graphs[graph] = captured
            return graph

    def launch_graph(self, graph: Graph, stream: Stream) -> None:
        with self._called():
            self.log.append(("launch_graph", stream))
            for operation in self._graphs[graph]:
                self._put(None, operation, stream)

    def destroy_graph(self, graph: Graph) -> None:
        with self._called():
            del self._graphs[graph]

    # What fakes of TensorRT, and tests, call.

    @property
    def used_bytes(self) -> int:
        return self._reserved_bytes + sum(block.nbytes for block in self._blocks.values())

    @property
    def num_graphs(self) -> int:
        return len(self._graphs)

    def view(self, address: int, size_bytes: int) -> HostBytes:
        """Return memory of the GPU; it must lie within one block."""
        for start, block in self._blocks.items():
            if start <= address and address + size_bytes <= start + block.nbytes:
                return block[address - start : address - start + size_bytes]
        raise AssertionError(f"{size_bytes} bytes at {address:#x} are not allocated")

    def launch(self, stream: Stream, kernel: Callable[[], None]) -> None:
        """Put a kernel in a stream."""
        with self._called():
            self._put("kernel", kernel, stream)

    def is_capturing(self, stream: Stream) -> bool:
        return stream in self._captures

    def reserve(self, size_bytes: int) -> None:
        """Take memory that has no address; raises DeviceOutOfMemoryError without room."""
        with self._lock:
            self._need(size_bytes)
            self._reserved_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        with self._lock:
            self._reserved_bytes -= size_bytes

    def lose(self, name: str) -> None:
        """Break it: every later call fails with this name."""
        self._lost = name

    def assert_nothing_left(self) -> None:
        """Fail if anything that was made has not been destroyed."""
        left = {
            "blocks": len(self._blocks),
            "pinned": len(self._pinned),
            "streams": len(self._streams),
            "events": len(self._events),
            "graphs": len(self._graphs),
            "reserved": self._reserved_bytes,
        }
        assert not any(left.values()), left

    @contextmanager
    def _called(self) -> Iterator[None]:
        with self._lock:
            assert threading.get_ident() in self._threads, "a thread has not said what GPU it uses"
            self._require_alive()
            self._stir()
            yield
            self._require_alive()

    def _require_alive(self) -> None:
        if self._lost is not None:
            raise DeviceLostError(f"CUDA answers {self._lost}")

    def _need(self, size_bytes: int) -> None:
        if self.used_bytes + size_bytes > self.memory_bytes:
            raise DeviceOutOfMemoryError("CUDA answers cudaErrorMemoryAllocation")

    def _place(self, blocks: dict[int, HostBytes], block: HostBytes) -> int:
        block.fill(_UNINITIALISED)
        address = self._next
        self._next = -(-(address + block.nbytes + _GAP) // _ALIGNMENT) * _ALIGNMENT
        blocks[address] = block
        return address

    def _new_handle(self) -> int:
        self._next += _ALIGNMENT
        return self._next

    def _check_pinned(self, part: HostBytes) -> None:
        assert part.flags.c_contiguous
        first, last = part.ctypes.data, part.ctypes.data + part.nbytes
        assert any(
            start <= first and last <= start + block.nbytes for start, block in self._pinned.items()
        ), "host memory that is not pinned, or not any more"

    def _put(self, name: str | None, operation: _Operation, stream: Stream) -> None:
        queue = self._streams[stream]
        if name is not None:
            self.log.append((name, stream))
        if stream not in self._captures:
            queue.append(operation)
            return
        thread, captured = self._captures[stream]
        assert thread == threading.get_ident(), "another thread came into what is captured"
        assert not isinstance(operation, _Mark | _Wait), "events are not captured here"
        captured.append(operation)

    def _stir(self) -> None:
        """Do some of what waits, if it can be done."""
        if self._rng is None:
            return
        for _ in range(self._rng.randrange(4)):
            ready = [stream for stream, queue in self._streams.items() if _is_ready(queue)]
            if not ready or self._lost is not None:
                return
            self._force(self._rng.choice(ready))

    def _complete(self, mark: _Mark) -> None:
        while not mark.is_done and self._lost is None:
            self._force(mark.stream)

    def _force(self, stream: Stream) -> None:
        """Do the next operation of a stream, and before it all that it waits for."""
        operation = self._streams[stream][0]
        if isinstance(operation, _Wait):
            self._complete(operation.mark)
            if self._lost is not None:
                return
        self._streams[stream].popleft()
        if isinstance(operation, _Mark):
            operation.is_done = True
        elif not isinstance(operation, _Wait):
            try:
                operation()
            except StickyError as error:
                self._lost = str(error)


def _is_ready(queue: deque[_Operation]) -> bool:
    if not queue:
        return False
    first = queue[0]
    return not isinstance(first, _Wait) or first.mark.is_done
