"""What an engine directory says of how it was made: the manifest and the configuration."""

import importlib.metadata
import platform
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beicli import __version__
from beicli.artifact.gpu import GpuTarget
from beicli.artifact.manifest import (
    FORMAT_VERSION,
    Backend,
    Limits,
    Manifest,
    Source,
    TensorInfo,
)
from beicli.builder.backend import Network
from beicli.config.load import LoadedConfig, to_dict, to_yaml
from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository, CheckpointSource, Config
from beicli.sources.fetched import Checkpoint
from beicli.sources.redaction import public_config


@dataclass(frozen=True, slots=True)
class Computed:
    """What computes an engine.

    cpu_features: what the backend asks of the CPU. toolchain: its packages. inputs, outputs: of
    what was written. gpu: what it was written for, if that is a GPU.
    """

    backend: Backend
    cpu_features: tuple[str, ...]
    toolchain: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    gpu: GpuTarget | None


def describe_engine(
    loaded: LoadedConfig, network: Network, *, source: Source, computed: Computed
) -> Manifest:
    """Return the manifest of a new engine, of which no file is known yet."""
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
        backend=computed.backend,
        precision=network.precision,
        cpu_features=computed.cpu_features,
        inputs=computed.inputs,
        outputs=computed.outputs,
        limits=Limits(
            max_num_tokens=build.max_num_tokens,
            max_batch_size=build.max_batch_size,
            max_input_length=min(spec.max_input_length, build.max_num_tokens),
        ),
        toolchain={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in computed.toolchain},
        files={},
        default_route=loaded.config.trt_llm.runtime.webserver_default_route,
        quantization=None,
        tuning=None,
        gpu=computed.gpu,
    )


def _name(repo: str) -> str:
    """Return the last part of a repository's name, without the ending of an archive."""
    name = repo.rstrip("/").rsplit("/", 1)[-1]
    return name.removesuffix(".tar.gz").removesuffix(".tgz") or repo


def describe_source(repository: CheckpointRepository, checkpoint: Checkpoint) -> Source:
    """Return where a checkpoint came from, without secrets."""
    return Source(
        kind=repository.source.value,
        repo=public_repo(repository.repo),
        revision=repository.revision,
        resolved_revision=checkpoint.resolved_revision,
    )


def write_config(staging: Path, loaded: LoadedConfig) -> None:
    """Write the configuration beside the engine."""
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
