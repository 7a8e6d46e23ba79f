"""From an engine directory to a running engine: a GPU, a plan for it, and TensorRT's runtime."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest
from beicli.engine.options import EngineOptions
from beicli.engine.tensorrt.contexts import LoadedPlan, is_out_of_memory
from beicli.engine.tensorrt.cuda import CudaDevice
from beicli.engine.tensorrt.device import DeviceMemory
from beicli.engine.tensorrt.engine import DEFAULT_NUM_SLOTS, RuntimeOptions, TensorRtEngine
from beicli.errors import ArtifactError, PlanError, UsageError
from beicli.tensorrt import driver
from beicli.tensorrt.api import Messages, collection_paused, create_runtime, load_trt, make_logger
from beicli.tensorrt.engine_plan import EnginePlan, flavor_of
from beicli.tensorrt.targets import check_flavor, check_precision

logger = logging.getLogger(__name__)

# Where a batch is cut. On a GPU of ours it was never measured; enough for the largest to be busy.
PREFERRED_NUM_TOKENS = 8192


def load(
    artifact: EngineArtifact,
    options: EngineOptions,
    *,
    open_device: Callable[[int], DeviceMemory] = CudaDevice,
) -> TensorRtEngine:
    """Load the plan for this GPU, compiled now if there is none, and what runs it.

    Raises GpuUnavailableError or ToolMissingError if something is missing here, ArtifactError if
    the GPU does not compute what the engine wants, PlanError without a plan that loads.
    """
    manifest = artifact.manifest
    gpu = _choose_gpu(options)
    _check_gpu(manifest, gpu)
    trt = load_trt(flavor_of(manifest))
    device = open_device(gpu.index)
    plan = EnginePlan.of(
        trt,
        artifact,
        sm=gpu.sm,
        gpu_name=gpu.name,
        plan_cache=options.gpu.plan_cache,
    )
    preferred = options.preferred_num_tokens or PREFERRED_NUM_TOKENS
    with collection_paused():
        return TensorRtEngine(
            _load_plan(trt, plan, may_compile=options.gpu.may_compile),
            device,
            manifest,
            RuntimeOptions(
                num_slots=options.num_slots or DEFAULT_NUM_SLOTS,
                preferred_num_tokens=min(preferred, manifest.limits.max_num_tokens),
                max_cuda_graphs=options.gpu.max_cuda_graphs,
            ),
        )


def _choose_gpu(options: EngineOptions) -> driver.CudaDevice:
    index = options.gpu.device_index
    if index is not None:
        return driver.read_device(index)
    devices = driver.read_driver().devices
    return devices[options.replica_number % len(devices)]


def _check_gpu(manifest: Manifest, gpu: driver.CudaDevice) -> None:
    """Raise ArtifactError if the GPU cannot run the engine, whatever plan is compiled of it."""
    try:
        check_flavor(flavor_of(manifest), gpu.sm)
        for precision in (manifest.residual_precision, manifest.precision):
            check_precision(precision, gpu.sm)
    except UsageError as error:
        raise ArtifactError(
            f"this engine cannot run on the {gpu.name}: {error.message}",
            hint=f"build it for this GPU with `bei build --target sm{gpu.sm}`",
        ) from error


def _load_plan(trt: ModuleType, plan: EnginePlan, *, may_compile: bool) -> LoadedPlan:
    """Deserialise the plan; one that does not load is compiled anew, once."""
    messages = Messages()
    trt_logger = make_logger(trt, messages)
    runtime = create_runtime(trt, trt_logger)
    if may_compile and not plan.store.has(plan.identity):
        # The one thing that makes a start take minutes.
        logger.warning("compiling a plan for sm%d, once: `%s`", plan.identity.sm, plan.identity.key)
    content = plan.get(may_compile=may_compile)
    cuda_engine = runtime.deserialize_cuda_engine(content)
    if cuda_engine is None:
        reason = messages.take_errors()
        if is_out_of_memory(reason):
            # Nothing is wrong with the plan.
            raise PlanError(
                f"the GPU has no room for the plan: {reason}",
                hint="stop what else uses the GPU, or take another one with `--device-id`",
            )
        if not may_compile:
            raise PlanError(
                f"the plan does not load: {reason}",
                hint="serve without `--no-compile`, which compiles it anew",
            )
        logger.warning("the plan does not load and is compiled anew: %s", reason)
        cuda_engine = runtime.deserialize_cuda_engine(plan.recompile(content))
    if cuda_engine is None:
        raise PlanError(
            f"a plan that was compiled just now does not load: {messages.take_errors()}",
            hint="see that the driver is as new as TensorRT wants: `bei doctor`",
        )
    path = plan.runtime_cache_path
    cache = _open_runtime_cache(cuda_engine, path)
    return LoadedPlan(
        trt,
        cuda_engine,
        messages,
        runtime_cache=cache,
        save_runtime_cache=functools.partial(_save_runtime_cache, cache, path),
        keep=(runtime, trt_logger),
    )


def _open_runtime_cache(cuda_engine: Any, path: Path) -> Any:
    """Return a cache of the kernels that tensorrt-rtx finishes; None of another flavour."""
    config = cuda_engine.create_runtime_config()
    if not hasattr(config, "create_runtime_cache"):
        return None
    cache = config.create_runtime_cache()
    # What it cannot use, of another GPU or driver, it refuses, and is empty then.
    with contextlib.suppress(OSError):
        cache.deserialize(path.read_bytes())
    return cache


def _save_runtime_cache(cache: Any, path: Path) -> None:
    if cache is None:
        return
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        new.write_bytes(bytes(cache.serialize()))
        new.replace(path)
    except OSError as error:
        logger.warning("kernels are finished anew at the next start: %s", error)
