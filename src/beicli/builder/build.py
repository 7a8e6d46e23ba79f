"""From a configuration to a finished engine directory, step by step.

fetch -> inspect -> load -> what the backend does -> check; then the directory is renamed into
place. The check runs the very engine that will serve, handed in by the caller, so the builder knows
of it only what is in the directory.
"""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from beicli import __version__
from beicli.artifact.directory import EngineArtifact, seal_artifact, stage_artifact
from beicli.artifact.manifest import (
    FORMAT_VERSION,
    Backend,
    Limits,
    Manifest,
    Precision,
    Source,
    TensorInfo,
)
from beicli.artifact.report import AccuracyReport
from beicli.builder import openvino, torch
from beicli.builder.backend import EngineBackend, Network
from beicli.builder.describe import (
    describe_checkpoint,
    describe_fallback,
    describe_module,
    describe_spec,
)
from beicli.builder.gate import AccuracyGate, Compute
from beicli.builder.memory import check_memory
from beicli.builder.tokenizer_files import write_tokenizer
from beicli.config.load import LoadedConfig, to_dict, to_yaml
from beicli.config.redaction import public_repo
from beicli.config.schema import (
    BaseModel,
    CheckpointRepository,
    CheckpointSource,
    Config,
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
from beicli.modeling.tasks import graph_inputs
from beicli.sources.checkpoint import fetch_checkpoint
from beicli.sources.fetched import Checkpoint
from beicli.sources.redaction import public_config

_BACKENDS: Mapping[Backend, EngineBackend] = {"openvino": openvino, "torch": torch}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What the command line says beside the configuration.

    backend: None takes the one for the configured accelerator.
    precision: None takes what the backend chooses; its bf16 only if the gate finds it close.
    pooling: None takes the checkpoint's own.
    """

    output: Path
    force: bool = False
    offline: bool = False
    backend: Backend | None = None
    precision: Precision | None = None
    pooling: Pooling | None = None


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
    repository = _check_buildable(loaded, options, progress)
    rerank = RerankRequest.from_metadata(loaded.config.model_metadata, repository=repository.repo)
    adapter = configured_adapter(loaded.config.model_metadata)
    pooling = options.pooling or configured_pooling(loaded.config.environment_variables)
    backend = options.backend or "openvino"
    precision = _BACKENDS[backend].choose_precision(options.precision)
    with stage_artifact(options.output, force=options.force) as staging:
        with _step(progress, "Fetched") as say:
            checkpoint = fetch_checkpoint(
                repository, config_directory=loaded.path.parent, offline=options.offline
            )
            say(describe_checkpoint(repository, checkpoint))
        with _step(progress, "Inspected") as say:
            spec = inspect_checkpoint(
                checkpoint.path, pooling=pooling, rerank=rerank, adapter=adapter
            )
            say(describe_spec(spec) + check_memory(checkpoint.path, backend, precision))
        _warn_of_spec(spec, pooling, checkpoint.path, progress)
        write_tokenizer(checkpoint.path, staging / "tokenizer", spec, warn=progress.warn)
        with _step(progress, "Loaded") as say:
            module = load_module(checkpoint.path, spec)
            say(describe_module(module))
        spec = fit_spec(spec, module)
        network = Network(
            checkpoint=checkpoint.path,
            spec=spec,
            module=module,
            precision=precision,
            is_precision_asked=options.precision is not None,
        )
        outputs = _BACKENDS[backend].write_engine(network, staging, partial(_step, progress))
        manifest = _manifest(loaded, _source(repository, checkpoint), network, backend, outputs)
        _write_config(staging, loaded)
        seal_artifact(staging, manifest)
        with _step(progress, "Checked") as say:
            gate = AccuracyGate(
                staging, manifest, module=module, checkpoint=checkpoint.path, compute=compute
            )
            may_fall_back = options.precision is None and precision == "bf16"
            fits = partial(check_memory, checkpoint.path, backend) if may_fall_back else None
            manifest, report = _check(staging, manifest, gate, progress, fits)
            say(report.summary)
        manifest = seal_artifact(staging, manifest)
    return BuildResult(EngineArtifact(options.output, manifest), report)


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
            f"`quantization_type: {quantization}` is not computed by CPUs; building without it"
        )
    elif quantization is not QuantizationType.NO_QUANT:
        raise UsageError(
            f"`quantization_type: {quantization}` cannot be built for CPUs",
            hint="use `no_quant`, which computes in bf16 where the CPU can",
        )
    return build.checkpoint_repository


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


def _manifest(
    loaded: LoadedConfig,
    source: Source,
    network: Network,
    backend: Backend,
    outputs: tuple[TensorInfo, ...],
) -> Manifest:
    spec = network.spec
    build = loaded.config.trt_llm.build
    resolved: dict[str, Any] = to_dict(_recorded_config(loaded))
    return Manifest(
        format_version=FORMAT_VERSION,
        bei_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        name=_name(source.repo),
        source=source,
        model=spec,
        build=resolved["trt_llm"]["build"],
        backend=backend,
        precision=network.precision,
        cpu_features=_BACKENDS[backend].cpu_features(network.precision),
        inputs=graph_inputs(spec),
        outputs=outputs,
        limits=Limits(
            max_num_tokens=build.max_num_tokens,
            max_batch_size=build.max_batch_size,
            max_input_length=min(spec.max_input_length, build.max_num_tokens),
        ),
        toolchain={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _BACKENDS[backend].TOOLCHAIN},
        files={},
        default_route=loaded.config.trt_llm.runtime.webserver_default_route,
    )


def _name(repo: str) -> str:
    """Return the last part of a repository's name, without the ending of an archive."""
    name = repo.rstrip("/").rsplit("/", 1)[-1]
    return name.removesuffix(".tar.gz").removesuffix(".tgz") or repo


def _source(repository: CheckpointRepository, checkpoint: Checkpoint) -> Source:
    return Source(
        kind=repository.source.value,
        repo=public_repo(repository.repo),
        revision=repository.revision,
        resolved_revision=checkpoint.resolved_revision,
    )


def _write_config(staging: Path, loaded: LoadedConfig) -> None:
    text = to_yaml(_recorded_config(loaded))
    (staging / "config.yaml").write_text(text, encoding="utf-8")


def _recorded_config(loaded: LoadedConfig) -> Config:
    """Return the configuration as the engine carries it: without secrets, its path in full."""
    config = public_config(loaded.config)
    build = config.trt_llm.build
    repository = loaded.config.trt_llm.build.checkpoint_repository
    if repository.source is CheckpointSource.LOCAL:
        # Relative to a file that lies elsewhere, it would lead nowhere.
        path = repository.local_path(relative_to=loaded.path.parent)
        build = replace(build, checkpoint_repository=replace(repository, repo=str(path)))
    return replace(config, trt_llm=replace(config.trt_llm, build=build))


@contextmanager
def _step(progress: Progress, name: str) -> Iterator[Callable[[str], None]]:
    """Tell `progress` when a step starts and, if it ends well, what came of it."""
    details: list[str] = []
    started_at = time.monotonic()
    progress.started(name)
    yield details.append
    progress.finished(name, details[-1], time.monotonic() - started_at)
