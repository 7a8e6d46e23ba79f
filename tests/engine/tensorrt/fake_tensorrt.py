"""TensorRT's runtime over a fake GPU: its names and rules, and any function as the network.

A context refuses what TensorRT refuses, with False and a line in the log. What TensorRT leaves
undefined fails here: a recording whose context was changed, or scratch memory in two streams.
"""

import enum
import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.engine.tensorrt.fake_device import FakeDevice, StickyError

from beicli.artifact.gpu import Flavor
from beicli.artifact.manifest import Manifest, TensorInfo
from beicli.engine.tensorrt.contexts import LoadedPlan
from beicli.engine.tensorrt.device import DeviceOutOfMemoryError, Stream
from beicli.tensorrt.api import Messages
from beicli.tensorrt.engine_plan import gpu_target
from beicli.tensorrt.profiles import Shape, input_shapes

API = Path(__file__).parents[2] / "tensorrt" / "api"
API_FILES: dict[Flavor, str] = {
    "tensorrt": "tensorrt-11.4.json",
    "tensorrt-rtx": "tensorrt-rtx-1.7.json",
}
Network = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
_TYPES = {"int32": "INT32", "float32": "FLOAT", "float16": "HALF"}
_ALIGNMENT = 256


def read_api(flavor: Flavor) -> dict[str, Any]:
    """Return the names of TensorRT's classes and enumerations, as its own bindings have them."""
    api: dict[str, Any] = json.loads((API / API_FILES[flavor]).read_text())
    return api


def fake_trt(flavor: Flavor) -> ModuleType:
    """Return a module with the enumerations of that TensorRT."""
    module = ModuleType(flavor)
    for name, members in read_api(flavor).items():
        if isinstance(members, dict):
            setattr(module, name, enum.IntEnum(name, members))
    return module


@dataclass(slots=True)
class Behaviour:
    """How a fake network behaves, which tests change as they go.

    scratch_bytes: of each profile. working_bytes: what a run takes beside, of its sequences and
    length. context_bytes: what a context takes. refuses: what a run is refused with.
    refuses_capture: the same while it is captured. breaks: the CUDA error that a run ends in.
    breaks_when_refusing: the CUDA error that the GPU has when a run is refused.
    makes_contexts: whether there are any to be had. refuses_setting: the method by which something
    of a context is set, and may not be.
    """

    scratch_bytes: tuple[int, ...]
    working_bytes: Callable[[int, int], int] = lambda num_sequences, length: 0
    context_bytes: int = 1000
    refuses: str | None = None
    refuses_capture: str | None = None
    breaks: str | None = None
    breaks_when_refusing: str | None = None
    makes_contexts: bool = True
    refuses_setting: str | None = None
    num_runs: int = 0
    shapes: list[Shape] = field(default_factory=list)
    profiles: list[int] = field(default_factory=list)


class FakeRuntimeConfig:
    """IRuntimeConfig of `tensorrt`."""

    __slots__ = ("_strategy",)

    def __init__(self) -> None:
        self._strategy: Any = None

    def get_execution_context_allocation_strategy(self) -> Any:
        return self._strategy

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy


class FakeRtxRuntimeConfig(FakeRuntimeConfig):
    """IRuntimeConfig of `tensorrt-rtx`."""

    __slots__ = ("_cache", "cuda_graph_strategy")

    def __init__(self) -> None:
        super().__init__()
        self.cuda_graph_strategy: Any = None
        self._cache: Any = None

    def set_runtime_cache(self, cache: Any) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> Any:
        return self._cache


class FakeCudaEngine:
    """ICudaEngine: the plan of a manifest, with a function in place of its kernels."""

    def __init__(
        self,
        flavor: Flavor,
        device: FakeDevice,
        manifest: Manifest,
        network: Network,
        behaviour: Behaviour,
    ) -> None:
        self._flavor = flavor
        self._trt = fake_trt(flavor)
        self._device = device
        self._profiles = gpu_target(manifest).profiles
        self._inputs = manifest.inputs
        self._outputs = manifest.outputs
        self._network = network
        self._behaviour = behaviour
        self._messages = Messages()
        self._scratch_streams: dict[int, int] = {}
        self._contexts: weakref.WeakSet[FakeExecutionContext] = weakref.WeakSet()
        self._configs: list[Any] = []

    def as_plan(self, runtime_cache: Any = None) -> LoadedPlan:
        return LoadedPlan(self._trt, self, self._messages, runtime_cache)

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return (*self._inputs, *self._outputs)[index].name

    def get_tensor_mode(self, name: str) -> Any:
        is_input = name in [each.name for each in self._inputs]
        modes = self._trt.TensorIOMode
        return modes.INPUT if is_input else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        dtype = next(e.dtype for e in (*self._inputs, *self._outputs) if e.name == name)
        return self._trt.DataType[_TYPES[dtype]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        return list(input_shapes(self._inputs, self._profiles[profile_index])[name])

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self._behaviour.scratch_bytes[profile_index]

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig() if self._flavor == "tensorrt" else FakeRtxRuntimeConfig()

    def create_execution_context(
        self, runtime_config: FakeRuntimeConfig
    ) -> "FakeExecutionContext | None":
        strategies = self._trt.ExecutionContextAllocationStrategy
        strategy = runtime_config.get_execution_context_allocation_strategy()
        assert strategy == strategies.USER_MANAGED
        if not self._behaviour.makes_contexts:
            if self._behaviour.breaks_when_refusing is not None:
                self._device.lose(self._behaviour.breaks_when_refusing)
            self._messages.errors.append("no context for you")
            return None
        try:
            context = FakeExecutionContext(self)
        except DeviceOutOfMemoryError:
            self._messages.errors.append("Error Code 2: OutOfMemory (requested allocation)")
            return None
        self._contexts.add(context)
        self._configs.append(runtime_config)
        return context


class FakeExecutionContext:
    """IExecutionContext."""

    def __init__(self, engine: FakeCudaEngine) -> None:
        self._engine = engine
        size_bytes = engine._behaviour.context_bytes
        engine._device.reserve(size_bytes)
        weakref.finalize(self, engine._device.release, size_bytes)
        self._profile: int | None = None
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        # Raised by whatever changes what a run would do.
        self._version = 0
        self._version_that_ran = -1

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % _ALIGNMENT == 0
        self._scratch = (memory, size)
        self._version += 1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert self._scratch != (0, 0)
        if profile_index >= self._engine.num_optimization_profiles:
            return self._refuse(f"there is no profile {profile_index}")
        if self._engine._behaviour.refuses_setting == "set_optimization_profile_async":
            return self._refuse("not now")
        self._profile = profile_index
        self._version += 1
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in [each.name for each in (*self._engine._inputs, *self._engine._outputs)]:
            return self._refuse(f"there is no tensor {name}")
        if self._engine._behaviour.refuses_setting == "set_tensor_address":
            return self._refuse("not now")
        self._addresses[name] = memory
        self._version += 1
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert self._profile is not None
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return self._refuse(f"{shape} is not within profile {self._profile}")
        self._shapes[name] = shape
        self._version += 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, behaviour = self._engine, self._engine._behaviour
        stream = Stream(stream_handle)
        is_captured = engine._device.is_capturing(stream)
        reason = behaviour.refuses or self._reason_to_refuse(is_captured=is_captured)
        if reason is not None:
            if behaviour.breaks_when_refusing is not None:
                engine._device.lose(behaviour.breaks_when_refusing)
            return self._refuse(reason)
        scratch, _ = self._scratch
        # A stream does one run after the other, so they may share it; two streams do not.
        assert engine._scratch_streams.setdefault(scratch, stream) == stream
        engine._device.launch(stream, self._kernel(is_captured=is_captured))
        self._version_that_ran = self._version
        return True

    def _reason_to_refuse(self, *, is_captured: bool) -> str | None:
        engine, behaviour = self._engine, self._engine._behaviour
        assert self._profile is not None
        scratch, size = self._scratch
        if scratch == 0 or size < behaviour.scratch_bytes[self._profile]:
            return "too little device memory"
        if len(self._shapes) < len(engine._inputs) or len(self._addresses) < engine.num_io_tensors:
            return "not all shapes and addresses are set"
        if is_captured and behaviour.refuses_capture is not None:
            return behaviour.refuses_capture
        if is_captured and self._version_that_ran != self._version:
            return "a shape was set and nothing has run since"
        num_sequences, length = self._shapes[engine._inputs[0].name]
        free_bytes = engine._device.memory_bytes - engine._device.used_bytes
        if behaviour.working_bytes(num_sequences, length) > free_bytes:
            return "Error Code 1: Cuda Runtime (out of memory)"
        return None

    def _refuse(self, reason: str) -> bool:
        self._engine._messages.errors.append(reason)
        return False

    def _kernel(self, *, is_captured: bool) -> Callable[[], None]:
        """Return what runs later, on the shapes and addresses of now."""
        engine, device = self._engine, self._engine._device
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        scratch, _ = self._scratch
        assert self._profile is not None
        profile = self._profile
        scratch_bytes = engine._behaviour.scratch_bytes[profile]
        version = self._version
        context = weakref.ref(self)

        def run() -> None:
            alive = context()
            assert alive is not None, "the context of a run is gone"
            assert not is_captured or alive._version == version, "its context was changed"
            if engine._behaviour.breaks is not None:
                raise StickyError(engine._behaviour.breaks)
            device.view(scratch, scratch_bytes).fill(0xAB)
            inputs = {
                each.name: _load(device, addresses[each.name], each, shapes[each.name])
                for each in engine._inputs
            }
            outputs = engine._network(inputs)
            for each in engine._outputs:
                wanted = output_shape(each, inputs)
                assert outputs[each.name].shape == wanted
                _store(device, addresses[each.name], each, outputs[each.name])
            engine._behaviour.num_runs += 1
            engine._behaviour.shapes.append(shapes[engine._inputs[0].name])
            engine._behaviour.profiles.append(profile)

        return run


def output_shape(tensor: TensorInfo, inputs: Mapping[str, NDArray[Any]]) -> Shape:
    """Return what shape an output has for inputs: [num_sequences, length], or tokens end to end."""
    ids = inputs["input_ids"]
    num_sequences, length = inputs.get("pad_index", ids).shape
    sizes = {"batch": num_sequences, "length": length, "tokens": ids.size}
    return tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)


def _load(device: FakeDevice, address: int, tensor: TensorInfo, shape: Shape) -> NDArray[Any]:
    dtype = np.dtype(tensor.dtype)
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    return device.view(address, size_bytes).view(dtype).reshape(shape).copy()


def _store(device: FakeDevice, address: int, tensor: TensorInfo, values: NDArray[Any]) -> None:
    content = np.ascontiguousarray(values, dtype=tensor.dtype).view(np.uint8).reshape(-1)
    device.view(address, content.nbytes)[:] = content
