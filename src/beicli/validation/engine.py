"""The verdict on an engine directory: every file, this machine, and the numbers it computes."""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beicli.artifact.accuracy import compare_golden
from beicli.artifact.directory import EngineArtifact, foreign_files, read_manifest, verify_file
from beicli.artifact.golden import Float32, Sample, read_golden
from beicli.artifact.gpu import PLANS_DIRECTORY
from beicli.artifact.manifest import Backend, Manifest
from beicli.artifact.names import GOLDEN_NAME, MANIFEST_NAME, REPORT_NAME
from beicli.artifact.report import parse_report
from beicli.artifact.summary import summarise
from beicli.config.dump import to_dict
from beicli.config.load import CONFIG_NAME, load_config
from beicli.engine.openvino import missing_cpu_features
from beicli.errors import (
    ArtifactError,
    BeiError,
    EngineError,
    GpuUnavailableError,
    ToolMissingError,
)
from beicli.pipeline.pipeline import compute_outputs
from beicli.scheduler.scheduler import logger as scheduler_logger
from beicli.tensorrt.plans import unsound_plans
from beicli.validation.findings import Finding, Level, Rule, TargetKind, TargetReport

MANIFEST = Rule(
    name="engine-manifest",
    level=Level.ERROR,
    why="without a sound manifest nothing says what the directory holds, and no server opens it",
)
FILE = Rule(
    name="engine-file",
    level=Level.ERROR,
    why="no server opens an engine with a file that is missing or was changed",
)
FOREIGN_FILE = Rule(
    name="engine-foreign-file",
    level=Level.WARNING,
    why="the build did not write it and nothing reads it: it may have come with a bad copy",
)
CONFIG = Rule(
    name="engine-config",
    level=Level.ERROR,
    why="the configuration inside is there to build the same engine again",
)
REPORT = Rule(
    name="engine-report",
    level=Level.ERROR,
    why="the report is the record of how the engine was compared with the float32 reference",
)
CPU_FEATURE = Rule(
    name="engine-cpu-feature",
    level=Level.WARNING,
    why="it computes in f32 here instead: right, but slower than where it was built",
)
LIBRARY_VERSION = Rule(
    name="engine-library-version",
    level=Level.WARNING,
    why="the accuracy in its report was measured with the other version",
)
GOLDEN_INPUTS = Rule(
    name="engine-golden-inputs",
    level=Level.ERROR,
    why="without them nobody can tell whether this machine computes what was built",
)
RUNS = Rule(
    name="engine-runs",
    level=Level.ERROR,
    why="a server with this engine would not start, or would answer every request with an error",
)
NOT_RUN = Rule(
    name="engine-not-run",
    level=Level.WARNING,
    why="whether it computes what was built is seen only where it serves",
)
PLAN = Rule(
    name="engine-plan",
    level=Level.WARNING,
    why="it is not taken, and the next server compiles it anew, which takes a while",
)
ACCURACY = Rule(
    name="engine-accuracy",
    level=Level.ERROR,
    why="the numbers it serves here are not those of the checkpoint",
)
RULES = (
    MANIFEST,
    FILE,
    FOREIGN_FILE,
    CONFIG,
    REPORT,
    CPU_FEATURE,
    LIBRARY_VERSION,
    GOLDEN_INPUTS,
    RUNS,
    NOT_RUN,
    PLAN,
    ACCURACY,
)

# What computes at serve time, and so can change the numbers.
_SERVING_LIBRARIES: Mapping[Backend, tuple[str, ...]] = {
    "openvino": ("openvino", "tokenizers", "numpy"),
    "torch": ("torch", "transformers", "tokenizers", "numpy"),
    # What computes is not there where these are built; a plan knows its version of TensorRT.
    "tensorrt": ("tokenizers", "numpy"),
    "tensorrt-rtx": ("tokenizers", "numpy"),
    "tensorrt-llm": ("tokenizers", "numpy"),
}
_MAX_NAMED_FOREIGN = 20
_REBUILD = "copy the whole directory again, or rebuild it with `bei build`"


def validate_engine(path: Path) -> TargetReport:
    """Check the engine directory `path`; raises nothing that the directory could cause.

    Every file first. Only when all are sound is the engine run, on its own golden inputs.
    """
    try:
        manifest = read_manifest(path)
    except ArtifactError as error:
        finding = MANIFEST.broken(error.message, fix=error.hint, place=MANIFEST_NAME)
        return _report(path, [finding], num_checks=1, facts={})
    findings = [*_check_files(path, manifest)]
    num_checks = 2 + len(manifest.files)
    facts: dict[str, Any] = {}
    if all(finding.level is not Level.ERROR for finding in findings):
        findings += [*_check_config(path, manifest), *_check_report(path)]
        findings += [*_check_machine(manifest), *_check_plans(path)]
        num_checks += 2 + len(manifest.cpu_features) + len(_SERVING_LIBRARIES[manifest.backend])
        wrong, facts = _check_numbers(EngineArtifact(path, manifest))
        findings += wrong
        num_checks += facts.get("num_golden_inputs", 0)
    return _report(path, findings, num_checks=num_checks, facts=_describe(manifest) | facts)


def _report(
    path: Path, findings: list[Finding], *, num_checks: int, facts: dict[str, Any]
) -> TargetReport:
    return TargetReport(
        target=str(path),
        kind=TargetKind.ENGINE,
        findings=tuple(findings),
        num_checks=num_checks,
        facts=facts,
    )


def _describe(manifest: Manifest) -> dict[str, Any]:
    wanted = ("name", "task", "architecture", "precision", "size_bytes", "bei_version")
    summary = summarise(manifest, None)
    return {key: summary[key] for key in wanted}


def _check_files(path: Path, manifest: Manifest) -> Iterator[Finding]:
    for name, entry in sorted(manifest.files.items()):
        try:
            verify_file(path, name, entry)
        except ArtifactError as error:
            yield FILE.broken(error.message, fix=error.hint or _REBUILD, place=name)
    foreign = foreign_files(path, manifest)
    for name in foreign[:_MAX_NAMED_FOREIGN]:
        yield FOREIGN_FILE.broken(
            f"`{name}` is not in `{MANIFEST_NAME}`",
            fix="remove it, or keep it elsewhere",
            place=name,
        )
    if len(foreign) > _MAX_NAMED_FOREIGN:
        yield FOREIGN_FILE.broken(
            f"{len(foreign) - _MAX_NAMED_FOREIGN:,} more are not in `{MANIFEST_NAME}`",
            fix="copy the engine into an empty directory",
        )


def _check_config(path: Path, manifest: Manifest) -> Iterator[Finding]:
    """See that the configuration is sound and the one that was built."""
    if CONFIG_NAME not in manifest.files:
        yield CONFIG.broken(f"there is no `{CONFIG_NAME}`", fix=_REBUILD, place=CONFIG_NAME)
        return
    try:
        config = load_config(path / CONFIG_NAME).config
    except BeiError as error:
        yield CONFIG.broken(error.message, fix=_REBUILD, place=CONFIG_NAME)
        return
    route = config.trt_llm.runtime.webserver_default_route
    if route != manifest.default_route:
        yield CONFIG.broken(
            f"`{CONFIG_NAME}` has the default route `{route}`, `{MANIFEST_NAME}` "
            f"`{manifest.default_route}`",
            fix=_REBUILD,
            place=CONFIG_NAME,
        )
    build = json.loads(json.dumps(to_dict(config)["trt_llm"]["build"]))
    if build != manifest.build:
        changed = sorted(
            key for key in {*build, *manifest.build} if build.get(key) != manifest.build.get(key)
        )
        yield CONFIG.broken(
            f"`{CONFIG_NAME}` and `{MANIFEST_NAME}` differ in `trt_llm.build.{changed[0]}`",
            fix=_REBUILD,
            place=CONFIG_NAME,
        )


def _check_report(path: Path) -> Iterator[Finding]:
    try:
        report = parse_report((path / REPORT_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        yield REPORT.broken(f"cannot be read: {error}", fix=_REBUILD, place=REPORT_NAME)
    except ArtifactError as error:
        yield REPORT.broken(error.message, fix=_REBUILD, place=REPORT_NAME)
    else:
        if not report.passed:
            yield REPORT.broken(
                f"the build was not close enough to the reference: {report.failure}",
                fix="rebuild with `--precision f32`",
                place=REPORT_NAME,
            )


def _check_machine(manifest: Manifest) -> Iterator[Finding]:
    for feature in missing_cpu_features(manifest.cpu_features):
        yield CPU_FEATURE.broken(
            f"it was built for CPUs with `{feature}`, which this one does not have",
            fix="serve it on such a CPU, or build one for this CPU",
            place="cpu_features",
        )
    for name in _SERVING_LIBRARIES[manifest.backend]:
        here, wanted = _installed_version(name), manifest.toolchain.get(name)
        if here != wanted:
            yield LIBRARY_VERSION.broken(
                f"it was built with {name} {wanted or 'of unknown version'}; here is "
                f"{here or 'none'}",
                fix=f"install `{name}=={wanted}`, or rebuild" if wanted else None,
                place=f"toolchain.{name}",
            )


def _check_plans(path: Path) -> Iterator[Finding]:
    for name in unsound_plans(path / PLANS_DIRECTORY):
        yield PLAN.broken(
            f"`{name}` is damaged, or has no record",
            fix="remove it, or copy the whole directory again",
            place=f"{PLANS_DIRECTORY}/{name}",
        )


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_numbers(artifact: EngineArtifact) -> tuple[list[Finding], dict[str, Any]]:
    """Compute the golden inputs with the real engine and compare them with what is stored."""
    try:
        golden = read_golden(artifact.path / GOLDEN_NAME)
    except ArtifactError as error:
        return [GOLDEN_INPUTS.broken(error.message, fix=_REBUILD, place=GOLDEN_NAME)], {}
    if not golden:
        return [
            GOLDEN_INPUTS.broken(
                f"`{GOLDEN_NAME}` holds no inputs", fix=_REBUILD, place=GOLDEN_NAME
            )
        ], {}
    samples = [sample for sample, _ in golden]
    try:
        with _quiet_scheduler():
            outputs = compute_outputs(artifact, samples)
    except (GpuUnavailableError, ToolMissingError) as error:
        return [NOT_RUN.broken(f"the engine is not run here: {error.message}", fix=error.hint)], {}
    # A network from a stranger: what computes it, and the tokenizer, raise what they like.
    except Exception as error:  # noqa: BLE001
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        what = f"the engine does not run: {error}{cause}"
        # The scheduler's own hint is a server's log, and there is none here.
        told = error.__cause__ if isinstance(error, EngineError) and error.__cause__ else error
        hint = told.hint if isinstance(told, BeiError) else None
        return [RUNS.broken(what, fix=hint or _REBUILD)], {}
    return _compare(artifact.manifest, golden, outputs)


@contextmanager
def _quiet_scheduler() -> Iterator[None]:
    """Keep the log of a failing pass off the terminal: the finding says the same."""
    was_disabled, scheduler_logger.disabled = scheduler_logger.disabled, True
    try:
        yield
    finally:
        scheduler_logger.disabled = was_disabled


def _compare(
    manifest: Manifest, golden: list[tuple[Sample, Float32]], outputs: list[Float32]
) -> tuple[list[Finding], dict[str, Any]]:
    try:
        report = compare_golden(golden, outputs, spec=manifest.model, precision=manifest.precision)
    except BeiError as error:
        return [ACCURACY.broken(error.message, fix=_REBUILD, place=GOLDEN_NAME)], {}
    facts = {"num_golden_inputs": len(golden), "accuracy": report.summary}
    if report.passed:
        return [], facts
    what = f"the golden inputs come out differently: {report.failure}"
    fix = "rebuild it on this machine with `bei build`"
    return [ACCURACY.broken(what, fix=fix, place=GOLDEN_NAME)], facts
