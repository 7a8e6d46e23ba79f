"""What a batch runs on: slots, which compute, and lanes, which bring batches in and results out.

A slot is one stream of the GPU and the scratch memory of what runs there. A forward pass blocks
its caller from the first copy to the last, so alone it could overlap nothing. Therefore a slot has
two lanes, each with buffers and a stream for copies of its own, and each taken by another caller:
while one batch computes in the slot's stream, the next is padded by its caller, copied in by the
other lane, and put in the slot's stream behind it; and the results of the last one are copied out.
The GPU goes from one batch to the next without waiting for the host.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from beicli.artifact.gpu import Dimensions
from beicli.artifact.manifest import Manifest, TensorInfo
from beicli.engine.batch import Float32, Int32
from beicli.engine.tensorrt.contexts import Context, ContextMemory, LoadedPlan
from beicli.engine.tensorrt.device import Address, DeviceMemory, Event, HostBytes, Stream
from beicli.engine.tensorrt.graphs import Recordings
from beicli.engine.tensorrt.shapes import Pass
from beicli.tensorrt.engine_plan import gpu_target
from beicli.tensorrt.profiles import input_shape

LANES_PER_SLOT = 2


class Holdings:
    """What is held of a GPU, to be let go of together: what came last first."""

    def __init__(self, device: DeviceMemory) -> None:
        self._device = device
        self._stack = ExitStack()

    def memory(self, size_bytes: int) -> Address:
        address = self._device.allocate(size_bytes)
        self._stack.callback(self._device.free, address)
        return address

    def pinned(self, size_bytes: int) -> HostBytes:
        pinned = self._device.allocate_pinned(size_bytes)
        self._stack.callback(self._device.free_pinned, pinned)
        return pinned

    def stream(self) -> Stream:
        stream = self._device.create_stream()
        self._stack.callback(self._device.destroy_stream, stream)
        return stream

    def event(self) -> Event:
        event = self._device.create_event()
        self._stack.callback(self._device.destroy_event, event)
        return event

    def before_that(self, call: Callable[[], object]) -> None:
        """Call it before anything is let go of that is held by now."""
        self._stack.callback(call)

    def close(self) -> None:
        """Let go of everything, also if that fails for some of it; then raises the last failure."""
        self._stack.close()


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """An input or output of the network, large enough for every profile, on both sides."""

    tensor: TensorInfo
    pinned: HostBytes
    address: Address

    def part(self, work: Pass) -> HostBytes:
        """Return the bytes that a batch takes, of the host's side."""
        return self.pinned[: size_bytes(self.tensor, work.dimensions, work.num_tokens)]


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One stream that computes.

    lock: held while work is put in the stream, which takes far less time than it does: batches of
        two lanes may follow each other there, but not mingle, and nothing may come between what
        is being recorded.
    """

    stream: Stream
    scratch: Address
    scratch_bytes: int
    lock: threading.Lock


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """Buffers of one batch, and the contexts that work on them; of one caller at a time.

    contexts: by the number of their profile. copies: the stream of the copies in and out.
    inputs_arrived, computed, finished: events of the batch that is in the lane.
    """

    device: DeviceMemory
    slot: Slot
    copies: Stream
    inputs_arrived: Event
    computed: Event
    finished: Event
    buffers: Mapping[str, Buffer]
    contexts: list[Context]
    recordings: Recordings

    @property
    def memory(self) -> ContextMemory:
        """What contexts of this lane work on."""
        return ContextMemory(
            stream=self.slot.stream,
            addresses={name: each.address for name, each in self.buffers.items()},
            scratch=self.slot.scratch,
            scratch_bytes=self.slot.scratch_bytes,
        )

    def send(self, inputs: Mapping[str, Int32], work: Pass) -> None:
        """Copy the inputs of a pass to the GPU, and go on before it has arrived."""
        for name, values in inputs.items():
            buffer = self.buffers[name]
            part = buffer.part(work)
            part.view(buffer.tensor.dtype).reshape(values.shape)[...] = values
            self.device.copy_to_device(buffer.address, part, self.copies)
        self.device.record(self.inputs_arrived, self.copies)

    def compute(self, enqueue: Callable[[], None]) -> None:
        """Let `enqueue` put the run in the slot's stream, behind the inputs' arrival."""
        with self.slot.lock:
            self.device.wait(self.slot.stream, self.inputs_arrived)
            enqueue()
            self.device.record(self.computed, self.slot.stream)

    def receive(self, names: list[str], work: Pass) -> dict[str, Float32]:
        """Wait for the run, and return the outputs of those names, whole; views of the buffers."""
        self.device.wait(self.copies, self.computed)
        for name in names:
            buffer = self.buffers[name]
            self.device.copy_to_host(buffer.part(work), buffer.address, self.copies)
        self.device.record(self.finished, self.copies)
        self.device.synchronize_event(self.finished)
        return {name: _as_tensor(self.buffers[name], work) for name in names}

    def quiesce(self) -> None:
        """Wait until nothing of a pass that failed halfway reads or writes the buffers."""
        self.device.synchronize_stream(self.copies)
        with self.slot.lock:
            self.device.synchronize_stream(self.slot.stream)

    def drop(self) -> None:
        """Let go of the contexts and recordings, once nothing runs."""
        try:
            self.recordings.clear()
        finally:
            self.contexts.clear()


def open_slot(plan: LoadedPlan, holdings: Holdings) -> Slot:
    """Make a slot whose scratch memory is enough for every profile."""
    cuda_engine = plan.cuda_engine
    scratch_bytes = max(
        cuda_engine.get_device_memory_size_for_profile_v2(number)
        for number in range(cuda_engine.num_optimization_profiles)
    )
    return Slot(
        stream=holdings.stream(),
        # Nothing is no memory at all, and a context wants an address.
        scratch=holdings.memory(max(scratch_bytes, 1)),
        scratch_bytes=scratch_bytes,
        lock=threading.Lock(),
    )


def open_lane(
    slot: Slot,
    device: DeviceMemory,
    manifest: Manifest,
    holdings: Holdings,
    *,
    max_recordings: int,
) -> Lane:
    """Make a lane of a slot, without contexts yet."""
    profiles = gpu_target(manifest).profiles
    buffers = {}
    for tensor in (*manifest.inputs, *manifest.outputs):
        largest = max(size_bytes(tensor, each.maximum) for each in profiles)
        buffers[tensor.name] = Buffer(tensor, holdings.pinned(largest), holdings.memory(largest))
    lane = Lane(
        device=device,
        slot=slot,
        copies=holdings.stream(),
        inputs_arrived=holdings.event(),
        computed=holdings.event(),
        finished=holdings.event(),
        buffers=buffers,
        contexts=[],
        recordings=Recordings(device, max_recordings),
    )
    holdings.before_that(lane.drop)
    return lane


def size_bytes(tensor: TensorInfo, dimensions: Dimensions, num_tokens: int | None = None) -> int:
    """Return how large an input or output is for a batch, as `input_shape` takes it."""
    shape = input_shape(tensor, dimensions, num_tokens)
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize


def _as_tensor(buffer: Buffer, work: Pass) -> Float32:
    values = buffer.part(work).view(buffer.tensor.dtype)
    values = values.reshape(input_shape(buffer.tensor, work.dimensions, work.num_tokens))
    # In f32 already, unless the graph gives out less.
    return values.astype(np.float32, copy=False)
