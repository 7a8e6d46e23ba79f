"""From a configuration to a finished engine directory, step by step.

fetch -> inspect -> load -> what the backend does -> check; then the directory is renamed into
place. The check runs the very engine that will serve, handed in by the caller, so the builder knows
of it only what is in the directory.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from beicli.artifact.directory import EngineArtifact, seal_artifact, stage_artifact
from beicli.artifact.manifest import (
    Backend,
    Manifest,
    Precision,
    Source,
)
from beicli.artifact.report import AccuracyReport
from beicli.builder import openvino, torch
from beicli.builder.backend import EngineBackend, Network
from beicli.builder.describe import (
    describe_checkpoint,
    describe_fallback,
    describe_module,
    describe_spec,
    describe_tuning,
)
from beicli.builder.gate import AccuracyGate, Compute
from beicli.builder.memory import check_memory
from beicli.builder.quantization.calibration import choose_calibration
from beicli.builder.quantization.plan import Method
from beicli.builder.quantized import QuantizationRequest, quantize_engine
from beicli.builder.record import Computed, describe_engine, describe_source, write_config
from beicli.builder.tokenizer_files import write_tokenizer
from beicli.builder.tuned import Tune, tune_engine
from beicli.config.load import LoadedConfig
from beicli.config.schema import (
    BaseModel,
    CheckpointRepository,
    QuantizationType,
)
from beicli.errors import UsageError
from beicli.model.adapters import configured_adapter
from beicli.model.classifier import activation_warning
from beicli.model.inspect import inspect_checkpoint
from beicli.model.recipe import configured_pooling
from beicli.model.rerank_templates import RerankRequest, missing_template_warning
from beicli.model.spec import ModelSpec, Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.onnx_network import fit_spec
from beicli.sources.checkpoint import fetch_checkpoint

_BACKENDS: Mapping[Backend, EngineBackend] = {"openvino": openvino, "torch": torch}
_METHODS: Mapping[QuantizationType, Method] = {
    QuantizationType.WEIGHTS_INT8: "weights_int8",
    QuantizationType.SMOOTH_QUANT: "smooth_quant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What the command line says beside the configuration.

    backend: None takes the one for the configured accelerator.
    precision: None takes what the backend chooses; its bf16 only if the gate finds it close.
    pooling: None takes the checkpoint's own.
    tune: measures the finished engine and records how it is fastest here; None does not.
    """

    output: Path
    force: bool = False
    offline: bool = False
    backend: Backend | None = None
    precision: Precision | None = None
    pooling: Pooling | None = None
    tune: Tune | None = None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished engine directory and how it compared."""

    artifact: EngineArtifact
    report: AccuracyReport


class Progress(Protocol):
    """Hears of the steps; the command line shows them."""

    def started(self, step: str) -> None: ...

    def finished(self, step: str, detail: str, duration_s: float) -> None: ...

    def warn(self, message: str) -> None: ...


def build_engine(
    loaded: LoadedConfig, options: BuildOptions, *, compute: Compute, progress: Progress
) -> BuildResult:
    """Build the engine that `loaded` describes and rename it to `options.output`.

    compute: computes the outputs of samples with a finished directory, on the path that serves, as
    `reference_outputs` describes them.
    Raises a BeiError that names the step's problem; nothing is left behind then.
    """
    request = _Request.of(loaded, options, compute, progress)
    with stage_artifact(options.output, force=options.force) as staging:
        network, source = _load_network(request, staging)
        # Before the long steps: a file of texts that cannot be read ends the build here.
        calibration = _choose_calibration(request, network)
        backend = _BACKENDS[request.backend]
        outputs = backend.write_engine(network, staging, request.step)
        features = backend.cpu_features(request.precision)
        manifest = describe_engine(
            loaded,
            network,
            source=source,
            computed=Computed(request.backend, features, backend.TOOLCHAIN, outputs),
        )
        write_config(staging, loaded)
        seal_artifact(staging, manifest)
        if calibration is None:
            manifest, report = _judge(request, network, staging, manifest)
        else:
            manifest, report = quantize_engine(
                staging,
                manifest,
                calibration,
                make_gate=partial(_make_gate, request, network, staging, manifest),
                step=request.step,
            )
        if options.tune is not None:
            may_choose = options.precision is None and manifest.precision == "bf16"
            judged = manifest.precision
            with request.step("Tuned") as say:
                manifest = tune_engine(staging, manifest, options.tune, may_choose=may_choose)
                features = backend.cpu_features(manifest.residual_precision)
                manifest = replace(manifest, cpu_features=features)
                say(describe_tuning(manifest))
            if manifest.precision != judged:
                seal_artifact(staging, manifest)
                manifest, report = _judge(
                    replace(request, precision=manifest.precision), network, staging, manifest
                )
        manifest = seal_artifact(staging, manifest)
    return BuildResult(EngineArtifact(options.output, manifest), report)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is built, checked as far as it can be before anything is fetched.

    method: how products are put into 8 bit; None leaves them in `precision`.
    """

    loaded: LoadedConfig
    options: BuildOptions
    compute: Compute
    progress: Progress
    repository: CheckpointRepository
    backend: Backend
    precision: Precision
    method: Method | None

    @classmethod
    def of(
        cls, loaded: LoadedConfig, options: BuildOptions, compute: Compute, progress: Progress
    ) -> Self:
        repository = _check_buildable(loaded, options, progress)
        backend = options.backend or "openvino"
        method = _METHODS.get(loaded.config.trt_llm.build.quantization_type)
        if method is not None:
            _check_8_bit(method, backend)
        precision = _BACKENDS[backend].choose_precision(options.precision)
        return cls(loaded, options, compute, progress, repository, backend, precision, method)

    def step(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        return _step(self.progress, name)


def _load_network(request: _Request, staging: Path) -> tuple[Network, Source]:
    """Fetch, inspect and load the checkpoint, and write the engine's tokenizer."""
    options, progress, repository = request.options, request.progress, request.repository
    config = request.loaded.config
    rerank = RerankRequest.from_metadata(config.model_metadata, repository=repository.repo)
    adapter = configured_adapter(config.model_metadata)
    pooling = options.pooling or configured_pooling(config.environment_variables)
    with request.step("Fetched") as say:
        checkpoint = fetch_checkpoint(
            repository, config_directory=request.loaded.path.parent, offline=options.offline
        )
        say(describe_checkpoint(repository, checkpoint))
    with request.step("Inspected") as say:
        spec = inspect_checkpoint(checkpoint.path, pooling=pooling, rerank=rerank, adapter=adapter)
        precision: Precision = request.precision if request.method is None else "int8"
        say(describe_spec(spec) + check_memory(checkpoint.path, request.backend, precision))
    _warn_of_spec(spec, pooling, checkpoint.path, progress)
    write_tokenizer(checkpoint.path, staging / "tokenizer", spec, warn=progress.warn)
    with request.step("Loaded") as say:
        module = load_module(checkpoint.path, spec)
        say(describe_module(module))
    network = Network(
        checkpoint=checkpoint.path,
        spec=fit_spec(spec, module),
        module=module,
        precision=request.precision,
        is_precision_asked=options.precision is not None,
    )
    return network, describe_source(repository, checkpoint)


def _make_gate(
    request: _Request, network: Network, staging: Path, manifest: Manifest
) -> AccuracyGate:
    return AccuracyGate(
        staging,
        manifest,
        module=network.module,
        checkpoint=network.checkpoint,
        compute=request.compute,
    )


def _judge(
    request: _Request, network: Network, staging: Path, manifest: Manifest
) -> tuple[Manifest, AccuracyReport]:
    """Let the gate compare the engine, in f32 too if its precision is not close and not asked."""
    with request.step("Checked") as say:
        gate = _make_gate(request, network, staging, manifest)
        may_fall_back = request.options.precision is None and request.precision == "bf16"
        fits = partial(check_memory, network.checkpoint, request.backend) if may_fall_back else None
        manifest, report = _check(staging, manifest, gate, request.progress, fits)
        say(report.summary)
    return manifest, report


def _choose_calibration(request: _Request, network: Network) -> QuantizationRequest | None:
    """Return what is to be put into 8 bit, and how; None if nothing is."""
    if request.method is None:
        return None
    calibration = choose_calibration(
        request.loaded.config.trt_llm.build.quantization_config,
        network.spec,
        config_directory=request.loaded.path.parent,
    )
    if calibration.note is not None:
        request.progress.warn(calibration.note)
    return QuantizationRequest(
        method=request.method, calibration=calibration, checkpoint=network.checkpoint
    )


def _check_buildable(
    loaded: LoadedConfig, options: BuildOptions, progress: Progress
) -> CheckpointRepository:
    build = loaded.config.trt_llm.build
    accelerator = loaded.config.resources.accelerator
    if accelerator and options.backend is None:
        raise UsageError(
            f"`resources.accelerator` is `{accelerator}`; this version builds for CPUs only",
            hint="build for this CPU all the same with `--backend openvino`",
        )
    if build.base_model is BaseModel.DECODER:
        raise UsageError(
            "`trt_llm.build.base_model` is `decoder`, a model that generates text",
            hint="embedding models use `encoder` or `encoder_bert`",
        )
    quantization = build.quantization_type
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
    return build.checkpoint_repository


def _check_8_bit(method: Method, backend: Backend) -> None:
    if backend != "openvino":
        raise UsageError(
            f"`quantization_type: {method}` is not computed by `--backend {backend}`",
            hint="leave `--backend` out, or write `quantization_type: no_quant`",
        )
    openvino.check_8_bit()


def _warn_of_spec(
    spec: ModelSpec, pooling: Pooling | None, checkpoint: Path, progress: Progress
) -> None:
    if spec.score_activation is not None and pooling is not None:
        progress.warn(f"pooling `{pooling}` has no effect: `{spec.architecture}` has a head")
    template_warning = missing_template_warning(
        model_type=spec.model_type, labels=spec.labels, template=spec.rerank_template
    )
    for warning in (template_warning, activation_warning(checkpoint, spec.task)):
        if warning is not None:
            progress.warn(warning)


def _check(
    staging: Path,
    manifest: Manifest,
    gate: AccuracyGate,
    progress: Progress,
    check_memory_for: Callable[[Precision], object] | None,
) -> tuple[Manifest, AccuracyReport]:
    """Compare the staged engine with the reference, in f32 too if it may and must be.

    check_memory_for: raises BuildError where a precision does not fit; None keeps to this one.
    """
    report = gate.compare()
    if check_memory_for is not None and not report.is_close:
        progress.warn(describe_fallback(report))
        check_memory_for("f32")
        # The graph is the same: precision is a hint when it is compiled.
        cpu_features = _BACKENDS[manifest.backend].cpu_features("f32")
        manifest = replace(manifest, precision="f32", cpu_features=cpu_features)
        manifest = seal_artifact(staging, manifest)
        report = gate.compare()
    gate.pass_with(report)
    return manifest, report


@contextmanager
def _step(progress: Progress, name: str) -> Iterator[Callable[[str], None]]:
    """Tell `progress` when a step starts and, if it ends well, what came of it."""
    details: list[str] = []
    started_at = time.monotonic()
    progress.started(name)
    yield details.append
    progress.finished(name, details[-1], time.monotonic() - started_at)
