"""What is odd about a configuration though Truss takes it and it builds."""

import re
from collections.abc import Iterator

from beicli.config.build_schema import DEFAULT_SECRET_NAME
from beicli.config.problems import format_key_path
from beicli.config.schema import CheckpointSource, Config, QuantizationType
from beicli.config.source import ConfigSource
from beicli.tensorrt.targets import ACCELERATOR_SM
from beicli.validation.findings import Finding, Level, Rule

REVISION_NOT_PINNED = Rule(
    name="revision-not-pinned",
    level=Level.WARNING,
    why="a branch moves, so the same file builds another engine tomorrow",
)
CONTENT_NOT_PINNED = Rule(
    name="content-not-pinned",
    level=Level.INFO,
    why="whoever can write there changes what the same file builds; Truss has no such pin",
)
BUILDER_GPUS_UNSET = Rule(
    name="fp4-builder-gpus",
    level=Level.WARNING,
    why="quantising holds the model in 16 bit, four times the memory that serving needs; Truss "
    "warns of FP8 only",
)
QUANTIZATION_NEEDS_GPU = Rule(
    name="quantization-needs-gpu",
    level=Level.WARNING,
    why="CPUs do not compute it, so the engine is built at 16 or 32 bit instead",
)
CALIBRATION_UNUSED = Rule(
    name="calibration-unused",
    level=Level.INFO,
    why="nothing is calibrated without quantisation",
)
BUILT_FOR_GPU = Rule(
    name="built-for-gpu",
    level=Level.INFO,
    why="what is built serves on such a GPU, and not on a CPU",
)
GPU_NOT_BUILT_FOR = Rule(
    name="gpu-not-built-for",
    level=Level.WARNING,
    why="TensorRT 11 has no kernels for it, or nobody says yet what it computes",
)
SECRET_IN_FILE = Rule(
    name="secret-in-file",
    level=Level.WARNING,
    why="whoever reads the file reads the secret, and its value is not used",
)
SECRET_NOT_DECLARED = Rule(
    name="secret-not-declared",
    level=Level.WARNING,
    why="Truss mounts declared secrets only, so the checkpoint cannot be fetched there",
)
WEIGHTS_UNUSED = Rule(
    name="weights-unused",
    level=Level.WARNING,
    why="the checkpoint of an engine is `checkpoint_repository`; the platform would fetch both",
)
RULES = (
    REVISION_NOT_PINNED,
    CONTENT_NOT_PINNED,
    BUILDER_GPUS_UNSET,
    QUANTIZATION_NEEDS_GPU,
    CALIBRATION_UNUSED,
    BUILT_FOR_GPU,
    GPU_NOT_BUILT_FOR,
    SECRET_IN_FILE,
    SECRET_NOT_DECLARED,
    WEIGHTS_UNUSED,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BUILD = ("trt_llm", "build")
_REPOSITORY = (*_BUILD, "checkpoint_repository")
_WITH_CREDENTIALS = {CheckpointSource.S3, CheckpointSource.GCS, CheckpointSource.AZURE}
_WITH_CONTENT_HASH = {*_WITH_CREDENTIALS, CheckpointSource.REMOTE_URL}


def lint(config: Config, source: ConfigSource) -> Iterator[Finding]:
    """Yield everything worth a word; `source` is what `config` was read from."""
    yield from _checkpoint(config)
    yield from _quantization(config, source)
    yield from _secrets(config)
    if config.weights:
        yield _at(WEIGHTS_UNUSED, ("weights",), "`weights` is set", "leave `weights` out")


def _checkpoint(config: Config) -> Iterator[Finding]:
    repository = config.trt_llm.build.checkpoint_repository
    revision = repository.revision
    path = (*_REPOSITORY, "revision")
    if repository.source is CheckpointSource.HF and not _COMMIT.fullmatch(revision or ""):
        found = f"`{revision}` is no commit" if revision else "no revision is named"
        fix = "write the commit's 40 hexadecimal digits; the hub shows them under `Files`"
        yield _at(REVISION_NOT_PINNED, path, found, fix)
    if repository.source in _WITH_CONTENT_HASH and not _SHA256.fullmatch(revision or ""):
        found = f"`{revision}` is no sha256" if revision else "no revision is named"
        fix = "write `revision` and the sha256 that `bei inspect` shows as `resolved_revision`"
        yield _at(CONTENT_NOT_PINNED, path, found, fix)


def _quantization(config: Config, source: ConfigSource) -> Iterator[Finding]:
    build = config.trt_llm.build
    path = (*_BUILD, "quantization_type")
    quantization = build.quantization_type
    accelerator = config.resources.accelerator
    if quantization.startswith("fp4") and build.num_builder_gpus is None:
        yield _at(
            BUILDER_GPUS_UNSET,
            (*_BUILD, "num_builder_gpus"),
            f"`quantization_type` is `{quantization}`, and `num_builder_gpus` is not set",
            "write `num_builder_gpus: 1`, or more for models of 30 billion parameters and up",
        )
    if quantization.startswith("fp") and accelerator is None:
        yield _at(
            QUANTIZATION_NEEDS_GPU,
            path,
            f"`{quantization}` is asked for, and no `resources.accelerator` is named",
            "name a GPU that computes it, or write `quantization_type: no_quant`",
        )
    written = source.value_at(*_BUILD, "quantization_config")
    if written and quantization is QuantizationType.NO_QUANT:
        yield _at(
            CALIBRATION_UNUSED,
            (*_BUILD, "quantization_config"),
            "`quantization_type` is `no_quant`",
            "leave `quantization_config` out",
        )
    if accelerator is not None:
        sm = ACCELERATOR_SM.get(accelerator.accelerator)
        yield _at(
            GPU_NOT_BUILT_FOR if sm is None else BUILT_FOR_GPU,
            ("resources", "accelerator"),
            f"`{accelerator}` is named" + ("" if sm is None else f", which is sm{sm}"),
            "build for this CPU instead with `--backend openvino`",
        )


def _secrets(config: Config) -> Iterator[Finding]:
    for name, value in config.secrets.items():
        # The value itself is never shown.
        if value:
            yield _at(
                SECRET_IN_FILE,
                ("secrets", name),
                f"the secret `{name}` has a value",
                f"write `{name}: null`, take the value out of the file, and change the secret",
            )
    repository = config.trt_llm.build.checkpoint_repository
    # A public checkpoint of the hub needs none, and the name of its default is often written.
    is_named = repository.runtime_secret_name != DEFAULT_SECRET_NAME
    is_needed = is_named or repository.source in _WITH_CREDENTIALS
    is_fetched = repository.source is not CheckpointSource.LOCAL
    if is_fetched and is_needed and repository.runtime_secret_name not in config.secrets:
        yield _at(
            SECRET_NOT_DECLARED,
            (*_REPOSITORY, "runtime_secret_name"),
            f"`secrets` does not hold `{repository.runtime_secret_name}`",
            f"add `secrets: {{{repository.runtime_secret_name}: null}}`",
        )


def _at(rule: Rule, path: tuple[str, ...], what: str, fix: str) -> Finding:
    return rule.broken(what, fix=fix, place=format_key_path(path))
