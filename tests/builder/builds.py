"""What a test of a build starts from: a configuration, options, and an ear for the steps."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from beicli.builder.build import BuildOptions, BuildResult, build_engine
from beicli.builder.gate import Compute
from beicli.config.load import LoadedConfig, load_config
from beicli.config.schema import Accelerator, AcceleratorSpec
from beicli.pipeline.pipeline import compute_outputs

STEPS = ["Fetched", "Inspected", "Loaded", "Exported", "Compiled", "Checked"]


@dataclass(slots=True)
class Recorder:
    """Progress that remembers."""

    started_steps: list[str] = field(default_factory=list)
    finished_steps: list[str] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    durations_s: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def started(self, step: str) -> None:
        assert self.started_steps == self.finished_steps, "steps follow one another"
        self.started_steps.append(step)

    def finished(self, step: str, detail: str, duration_s: float) -> None:
        self.finished_steps.append(step)
        self.details[step] = detail
        self.durations_s.append(duration_s)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def write_config(
    directory: Path, repo: Path | str, *, source: str = "LOCAL", **build: Any
) -> LoadedConfig:
    """Write a configuration of an encoder and load it; `build` goes over its build section."""
    repository = {"source": source, "repo": str(repo)}
    section = {"base_model": "encoder_bert", "checkpoint_repository": repository} | build
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump({"model_name": "Tiny", "trt_llm": {"build": section}}))
    return load_config(path)


def run_build(
    loaded: LoadedConfig,
    output: Path,
    *,
    compute: Compute = compute_outputs,
    progress: Recorder | None = None,
    **options: Any,
) -> BuildResult:
    """Build in float32, so that the outcome is the same on every CPU."""
    return build_engine(
        loaded,
        BuildOptions(**({"output": output, "precision": "f32"} | options)),
        compute=compute,
        progress=progress or Recorder(),
    )


@dataclass(frozen=True, slots=True)
class Finished:
    """A real build of the tiny checkpoint, what was heard of it, and a copy of its graph."""

    loaded: LoadedConfig
    result: BuildResult
    progress: Recorder
    onnx_path: Path

    @property
    def path(self) -> Path:
        return self.result.artifact.path


def with_build(loaded: LoadedConfig, **changes: Any) -> LoadedConfig:
    """Change the build section in ways the loader itself may warn of or refuse."""
    trt_llm = loaded.config.trt_llm
    if "quantization_type" in changes:
        kind = type(trt_llm.build.quantization_type)
        changes["quantization_type"] = kind(changes["quantization_type"])
    changed = replace(trt_llm, build=replace(trt_llm.build, **changes))
    return replace(loaded, config=replace(loaded.config, trt_llm=changed))


def with_accelerator(loaded: LoadedConfig, name: str = "L4") -> LoadedConfig:
    spec = AcceleratorSpec(accelerator=Accelerator(name))
    resources = replace(loaded.config.resources, accelerator=spec)
    return replace(loaded, config=replace(loaded.config, resources=resources))
