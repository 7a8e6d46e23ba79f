"""Execution contexts: a deserialised plan, made ready to run one profile on given memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from beicli.engine.tensorrt.device import (
    Address,
    DeviceMemory,
    DeviceOutOfMemoryError,
    Stream,
)
from beicli.errors import EngineError
from beicli.tensorrt.api import Messages
from beicli.tensorrt.profiles import Shape

# How TensorRT says that CUDA had no memory for it.
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "cudaerrormemoryallocation", "cuda_error_out_of")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPlan:
    """A plan that TensorRT has deserialised on the GPU.

    cuda_engine: an ICudaEngine. messages: of the logger that its runtime was made with.
    runtime_cache: of tensorrt-rtx, the kernels that it finished for this GPU; else None.
    save_runtime_cache: keeps them for the next process.
    keep: what has to live as long, the runtime and the logger.
    """

    trt: ModuleType
    cuda_engine: Any
    messages: Messages
    runtime_cache: Any = None
    save_runtime_cache: Callable[[], None] = lambda: None
    keep: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ContextMemory:
    """What a context works on.

    addresses: of every input and output, by name. scratch: shared by all contexts that run in one
    stream, which never run at the same time.
    """

    stream: Stream
    addresses: Mapping[str, Address]
    scratch: Address
    scratch_bytes: int


@dataclass(slots=True, eq=False)
class Context:
    """An IExecutionContext with its profile and all its addresses set; of one thread at a time."""

    raw: Any
    device: DeviceMemory
    messages: Messages
    shapes: dict[str, Shape] = field(default_factory=dict)

    def set_shapes(self, shapes: Mapping[str, Shape]) -> None:
        """Set the shapes of the inputs, as far as they are others than before."""
        for name, shape in shapes.items():
            if self.shapes.get(name) == shape:
                continue
            # Whatever it is set to until this one is.
            self.shapes.pop(name, None)
            if not self.raw.set_input_shape(name, shape):
                raise failure(f"the shape {shape} of `{name}`", self.messages)
            self.shapes[name] = shape

    def enqueue(self, stream: Stream) -> None:
        """Put a run in the stream; raises what TensorRT says if it cannot."""
        if not self.raw.execute_async_v3(stream):
            # A GPU that is lost says so here; what TensorRT says of it is only what came of that.
            self.device.check()
            raise failure("a batch", self.messages)


def make_context(
    plan: LoadedPlan,
    device: DeviceMemory,
    memory: ContextMemory,
    profile: int,
    *,
    records_itself: bool = False,
) -> Context:
    """Return a context for a profile, by its number.

    records_itself: whether TensorRT shall record launches, where it can.
    Raises EngineError with what TensorRT says if it gives none.
    """
    strategies = plan.trt.ExecutionContextAllocationStrategy
    config = plan.cuda_engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
    if records_itself:
        config.cuda_graph_strategy = plan.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    if plan.runtime_cache is not None and not config.set_runtime_cache(plan.runtime_cache):
        raise failure("its cache of kernels", plan.messages)
    raw = plan.cuda_engine.create_execution_context(config)
    if raw is None:
        device.check()
        raise failure("another execution context", plan.messages)
    raw.set_device_memory(memory.scratch, memory.scratch_bytes)
    if not raw.set_optimization_profile_async(profile, memory.stream):
        raise failure(f"profile {profile}", plan.messages)
    for name, address in memory.addresses.items():
        if not raw.set_tensor_address(name, address):
            raise failure(f"the address of `{name}`", plan.messages)
    return Context(raw, device, plan.messages)


def can_record_itself(plan: LoadedPlan) -> bool:
    """Whether this TensorRT can be told to record launches."""
    return hasattr(plan.trt, "CudaGraphStrategy") and hasattr(
        plan.cuda_engine.create_runtime_config(), "cuda_graph_strategy"
    )


def failure(what: str, messages: Messages) -> EngineError:
    """Return the error that TensorRT refused something, with what it says; which it then forgets.

    Lanes that run side by side share a logger, so another one's words may be among it.
    """
    reason = messages.take_errors()
    text = f"TensorRT does not take {what}: {reason}"
    if is_out_of_memory(reason):
        return DeviceOutOfMemoryError(text, hint="another process may hold the GPU's memory")
    return EngineError(text)


def is_out_of_memory(reason: str) -> bool:
    """Whether what TensorRT says is that CUDA had no memory for it."""
    return any(part in reason.lower() for part in _OUT_OF_MEMORY)
