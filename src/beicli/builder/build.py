"""From a configuration to a finished engine directory, step by step.

fetch -> inspect -> load -> what the backend does -> check; then the directory is renamed into
place. The check runs the very engine that will serve, handed in by the caller, so the builder knows
of it only what is in the directory. An engine for a GPU that is not here is emulated.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from beicli.artifact.directory import EngineArtifact, seal_artifact, stage_artifact
from beicli.artifact.manifest import Manifest, Precision, Source
from beicli.artifact.report import AccuracyReport
from beicli.builder.backend import Network
from beicli.builder.describe import (
    describe_checkpoint,
    describe_fallback,
    describe_module,
    describe_spec,
    describe_tuning,
)
from beicli.builder.gate import AccuracyGate, Compute
from beicli.builder.gpu_stage import GpuStage
from beicli.builder.memory import check_memory
from beicli.builder.quantization.calibration import CalibrationSet, choose_calibration
from beicli.builder.quantized import QuantizationRequest, quantize_engine
from beicli.builder.record import Computed, describe_engine, describe_source, write_config
from beicli.builder.request import BACKENDS, BuildOptions, BuildRequest, Progress
from beicli.builder.tensorrt import build_for_gpu
from beicli.builder.tensorrt_llm import LlmBuild
from beicli.builder.tokenizer_files import write_tokenizer
from beicli.builder.tuned import tune_engine
from beicli.config.load import LoadedConfig
from beicli.model.adapters import configured_adapter
from beicli.model.classifier import activation_warning
from beicli.model.inspect import inspect_checkpoint
from beicli.model.recipe import configured_pooling
from beicli.model.rerank_templates import RerankRequest, missing_template_warning
from beicli.model.spec import ModelSpec, Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.onnx_network import fit_spec
from beicli.modeling.tasks import graph_inputs
from beicli.sources.checkpoint import fetch_checkpoint

__all__ = ["BuildOptions", "BuildResult", "build_engine"]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished engine directory and how it compared."""

    artifact: EngineArtifact
    report: AccuracyReport


def build_engine(
    loaded: LoadedConfig, options: BuildOptions, *, compute: Compute, progress: Progress
) -> BuildResult:
    """Build the engine that `loaded` describes and rename it to `options.output`.

    compute: computes the outputs of samples with a finished directory, on the path that serves, as
    `reference_outputs` describes them.
    Raises a BeiError that names the step's problem; nothing is left behind then.
    """
    request = BuildRequest.of(loaded, options, compute, progress)
    with stage_artifact(options.output, force=options.force) as staging:
        network, source = _load_network(request, staging)
        # Before the long steps: a file of texts that cannot be read ends the build here.
        calibration = _choose_calibration(request, network)
        write_config(staging, loaded)
        build = partial(_builder(request), request)
        manifest, report = build(network, source, staging, calibration)
        manifest = seal_artifact(staging, manifest)
    return BuildResult(EngineArtifact(options.output, manifest), report)


def _builder(request: BuildRequest) -> "_Builder":
    if request.backend == "tensorrt-llm":
        return _build_for_llm
    return _build_for_cpu if request.gpu is None else _build_for_gpu


def _build_for_cpu(
    request: BuildRequest,
    network: Network,
    source: Source,
    staging: Path,
    calibration: CalibrationSet | None,
) -> tuple[Manifest, AccuracyReport]:
    backend = BACKENDS[request.backend]
    outputs = backend.write_engine(network, staging, request.step)
    computed = Computed(
        backend=request.backend,
        cpu_features=backend.cpu_features(request.precision),
        toolchain=backend.TOOLCHAIN,
        inputs=graph_inputs(network.spec),
        outputs=outputs,
        gpu=None,
    )
    manifest = describe_engine(request.loaded, network, source=source, computed=computed)
    seal_artifact(staging, manifest)
    if calibration is None:
        manifest, report = _judge(request, network, staging, manifest)
    else:
        assert request.method is not None, "what is calibrated is put into 8 bit"
        manifest, report = quantize_engine(
            staging,
            manifest,
            QuantizationRequest(
                method=request.method, calibration=calibration, checkpoint=network.checkpoint
            ),
            make_gate=partial(_make_gate, request, network, staging, manifest),
            step=request.step,
        )
    if request.options.tune is not None:
        manifest, report = _tune(request, network, staging, manifest, report)
    return manifest, report


def _build_for_gpu(
    request: BuildRequest,
    network: Network,
    source: Source,
    staging: Path,
    calibration: CalibrationSet | None,
) -> tuple[Manifest, AccuracyReport]:
    assert request.gpu is not None, "it is for a GPU"
    stage = GpuStage(
        request=request.gpu,
        network=network,
        staging=staging,
        calibration=calibration,
        describe=partial(_describe, request, network, source),
        make_gate=partial(_make_gate, request, network, staging),
        step=request.step,
        warn=request.progress.warn,
    )
    return build_for_gpu(stage)


def _build_for_llm(
    request: BuildRequest,
    network: Network,
    source: Source,
    staging: Path,
    _calibration: CalibrationSet | None,
) -> tuple[Manifest, AccuracyReport]:
    return LlmBuild(
        quantization_type=request.loaded.config.trt_llm.build.quantization_type,
        choose_calibration=partial(_calibration_set, request, network),
        network=network,
        staging=staging,
        describe=partial(_describe, request, network, source),
        make_gate=partial(_make_gate, request, network, staging),
        step=request.step,
        warn=request.progress.warn,
    ).run()


def _describe(
    request: BuildRequest,
    network: Network,
    source: Source,
    computed: Computed,
    precision: Precision,
) -> Manifest:
    """Return the manifest of what was computed, in a precision that was found meanwhile."""
    of_precision = replace(network, precision=precision)
    return describe_engine(request.loaded, of_precision, source=source, computed=computed)


_Builder = Callable[
    [BuildRequest, Network, Source, Path, CalibrationSet | None],
    tuple[Manifest, AccuracyReport],
]


def _tune(
    request: BuildRequest,
    network: Network,
    staging: Path,
    manifest: Manifest,
    report: AccuracyReport,
) -> tuple[Manifest, AccuracyReport]:
    """Measure how the engine is fastest here; judge it again if that is in another precision."""
    tune = request.options.tune
    assert tune is not None, "it was asked for"
    may_choose = request.options.precision is None and manifest.precision == "bf16"
    judged = manifest.precision
    with request.step("Tuned") as say:
        manifest = tune_engine(staging, manifest, tune, may_choose=may_choose)
        features = BACKENDS[request.backend].cpu_features(manifest.residual_precision)
        manifest = replace(manifest, cpu_features=features)
        say(describe_tuning(manifest))
    if manifest.precision != judged:
        seal_artifact(staging, manifest)
        tuned = replace(request, precision=manifest.precision)
        manifest, report = _judge(tuned, network, staging, manifest)
    return manifest, report


def _load_network(request: BuildRequest, staging: Path) -> tuple[Network, Source]:
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
        memory = check_memory(checkpoint.path, request.backend, request.memory_precision)
        say(describe_spec(spec) + memory)
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
    request: BuildRequest, network: Network, staging: Path, manifest: Manifest
) -> AccuracyGate:
    return AccuracyGate(
        staging,
        manifest,
        module=network.module,
        checkpoint=network.checkpoint,
        compute=request.compute,
    )


def _judge(
    request: BuildRequest, network: Network, staging: Path, manifest: Manifest
) -> tuple[Manifest, AccuracyReport]:
    """Let the gate compare the engine, in f32 too if its precision is not close and not asked."""
    with request.step("Checked") as say:
        gate = _make_gate(request, network, staging, manifest)
        may_fall_back = request.options.precision is None and request.precision == "bf16"
        fits = partial(check_memory, network.checkpoint, request.backend) if may_fall_back else None
        manifest, report = _check(staging, manifest, gate, request.progress, fits)
        say(report.summary)
    return manifest, report


def _choose_calibration(request: BuildRequest, network: Network) -> CalibrationSet | None:
    """Return the texts to observe activations on; None if nothing is quantised."""
    is_gpu_quantized = request.gpu is not None and request.gpu.method is not None
    if request.method is None and not is_gpu_quantized:
        return None
    return _calibration_set(request, network)


def _calibration_set(request: BuildRequest, network: Network) -> CalibrationSet:
    calibration = choose_calibration(
        request.loaded.config.trt_llm.build.quantization_config,
        network.spec,
        config_directory=request.loaded.path.parent,
    )
    if calibration.note is not None:
        request.progress.warn(calibration.note)
    return calibration


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
        cpu_features = BACKENDS[manifest.backend].cpu_features("f32")
        manifest = replace(manifest, precision="f32", cpu_features=cpu_features)
        manifest = seal_artifact(staging, manifest)
        report = gate.compare()
    gate.pass_with(report)
    return manifest, report
