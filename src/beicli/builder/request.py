"""What is to be built, checked as far as it can be before anything is fetched."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from beicli.artifact.gpu import Flavor, HardwareCompatibility, Layout
from beicli.artifact.manifest import Backend, Precision
from beicli.builder import openvino, tensorrt_llm, torch
from beicli.builder.backend import EngineBackend
from beicli.builder.gate import Compute
from beicli.builder.gpu_graph.plan import GPU_METHODS, METHOD_PRECISIONS
from beicli.builder.gpu_stage import GpuRequest
from beicli.builder.quantization.plan import Method
from beicli.builder.tuned import Tune
from beicli.config.load import LoadedConfig
from beicli.config.schema import BaseModel, CheckpointRepository, QuantizationType
from beicli.errors import GpuUnavailableError, UsageError
from beicli.model.spec import Pooling
from beicli.tensorrt.driver import read_device
from beicli.tensorrt.targets import (
    accelerator_sm,
    check_flavor,
    check_precision,
    default_flavor,
)

BACKENDS: Mapping[Backend, EngineBackend] = {
    "openvino": openvino,
    "torch": torch,
    "tensorrt-llm": tensorrt_llm,
}
_METHODS: Mapping[QuantizationType, Method] = {
    QuantizationType.WEIGHTS_INT8: "weights_int8",
    QuantizationType.SMOOTH_QUANT: "smooth_quant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What the command line says beside the configuration.

    backend: None takes the one for the GPU that is named, or for CPUs if none is.
    precision: None takes what the backend chooses; a lower one only if the gate finds it close.
    pooling: None takes the checkpoint's own.
    tune: measures the finished engine and records how it is fastest here; None does not.
    sm: the GPU to build for, 89 for sm89; None takes the one that the configuration names.
    """

    output: Path
    force: bool = False
    offline: bool = False
    backend: Backend | None = None
    precision: Precision | None = None
    pooling: Pooling | None = None
    tune: Tune | None = None
    sm: int | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    layout: Layout = "padded"


class Progress(Protocol):
    """Hears of the steps; the command line shows them."""

    def started(self, step: str) -> None: ...

    def finished(self, step: str, detail: str, duration_s: float) -> None: ...

    def warn(self, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is built.

    precision: what a CPU computes in. method: how its products are put into 8 bit; None leaves them
    in `precision`. gpu: what GPU it is for; None for none.
    """

    loaded: LoadedConfig
    options: BuildOptions
    compute: Compute
    progress: Progress
    repository: CheckpointRepository
    backend: Backend
    precision: Precision
    method: Method | None
    gpu: GpuRequest | None

    @classmethod
    def of(
        cls, loaded: LoadedConfig, options: BuildOptions, compute: Compute, progress: Progress
    ) -> Self:
        """Check the configuration against the options; raises UsageError if they cannot be."""
        build = loaded.config.trt_llm.build
        if build.base_model is BaseModel.DECODER:
            raise UsageError(
                "`trt_llm.build.base_model` is `decoder`, a model that generates text",
                hint="embedding models use `encoder` or `encoder_bert`",
            )
        backend = _choose_backend(loaded, options)
        method, gpu = None, None
        precision: Precision = "f32"
        if backend == "tensorrt" or backend == "tensorrt-rtx":  # noqa: PLR1714 - narrows the type
            gpu = _gpu_request(loaded, options, backend)
        else:
            _refuse_gpu_options(options, backend)
            method = _cpu_method(build.quantization_type, backend, progress)
            precision = BACKENDS[backend].choose_precision(options.precision)
        return cls(
            loaded,
            options,
            compute,
            progress,
            build.checkpoint_repository,
            backend,
            precision,
            method,
            gpu,
        )

    def step(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        """Tell of a step that begins; what it gives is told what came of it."""
        return _step(self.progress, name)

    @property
    def memory_precision(self) -> Precision:
        """What is computed in where the build holds the most memory."""
        return self.precision if self.method is None else "int8"


def _choose_backend(loaded: LoadedConfig, options: BuildOptions) -> Backend:
    if options.backend is not None:
        return options.backend
    sm = _named_sm(loaded, options)
    return "openvino" if sm is None else default_flavor(sm)


def _named_sm(loaded: LoadedConfig, options: BuildOptions) -> int | None:
    if options.sm is not None:
        return options.sm
    accelerator = loaded.config.resources.accelerator
    return None if accelerator is None else accelerator_sm(accelerator.accelerator)


def _sm_of_this_machine() -> int:
    try:
        return read_device(0).sm
    except GpuUnavailableError as error:
        raise UsageError(
            "no GPU is named, and there is none here",
            hint="name one with `--target sm90`, or in `resources.accelerator`",
        ) from error


def _gpu_request(loaded: LoadedConfig, options: BuildOptions, flavor: Flavor) -> GpuRequest:
    sm = _named_sm(loaded, options) or _sm_of_this_machine()
    check_flavor(flavor, sm)
    if flavor == "tensorrt-rtx" and options.hardware_compatibility != "none":
        raise UsageError(
            "`--hw-compat` has no meaning for `--backend tensorrt-rtx`: its plans are for every "
            "GPU of a compute capability",
            hint="leave it out",
        )
    quantization = loaded.config.trt_llm.build.quantization_type
    method = GPU_METHODS.get(quantization)
    if method is None and quantization is not QuantizationType.NO_QUANT:
        raise UsageError(
            f"`quantization_type: {quantization}` is not computed by GPUs here",
            hint="write `no_quant`, or `fp8` or `fp4` where the GPU has it",
        )
    if method is not None:
        check_precision(METHOD_PRECISIONS[method], sm)
    precision = options.precision
    if precision not in {None, "f32", "bf16", "f16"}:
        raise AssertionError("8 and 4 bit are asked for by the configuration")
    if precision is not None:
        check_precision(precision, sm)
    if options.tune is not None:
        raise UsageError(
            "`--tune` measures engines for CPUs",
            hint="leave it out, or build for this CPU with `--backend openvino`",
        )
    return GpuRequest(
        flavor=flavor,
        sm=sm,
        method=method,
        precision=precision,
        hardware_compatibility=options.hardware_compatibility,
        layout=options.layout,
    )


def _refuse_gpu_options(options: BuildOptions, backend: Backend) -> None:
    asked = {
        "--target": options.sm is not None,
        "--hw-compat": options.hardware_compatibility != "none",
        "--layout": options.layout != "padded",
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise UsageError(
                f"`{name}` has no meaning for `--backend {backend}`",
                hint="leave it out, or take `--backend tensorrt` or `tensorrt-rtx`",
            )


def _cpu_method(
    quantization: QuantizationType, backend: Backend, progress: Progress
) -> Method | None:
    method = _METHODS.get(quantization)
    if backend == "tensorrt-llm":
        # It takes FP8 and FP4 as its own quantised checkpoints.
        return None
    if quantization.value.startswith("fp"):
        progress.warn(
            f"`quantization_type: {quantization}` is not computed by CPUs; building at 16 or 32 "
            "bit: `weights_int8` and `smooth_quant` are what CPUs compute in 8 bit"
        )
    elif quantization not in {QuantizationType.NO_QUANT, *_METHODS}:
        raise UsageError(
            f"`quantization_type: {quantization}` cannot be built for CPUs",
            hint="use `no_quant`, or `weights_int8` or `smooth_quant` for 8 bit",
        )
    if method is not None:
        if backend != "openvino":
            raise UsageError(
                f"`quantization_type: {method}` is not computed by `--backend {backend}`",
                hint="leave `--backend` out, or write `quantization_type: no_quant`",
            )
        openvino.check_8_bit()
    return method


@contextmanager
def _step(progress: Progress, name: str) -> Iterator[Callable[[str], None]]:
    """Tell `progress` when a step starts and, if it ends well, what came of it."""
    details: list[str] = []
    started_at = time.monotonic()
    progress.started(name)
    yield details.append
    progress.finished(name, details[-1], time.monotonic() - started_at)
