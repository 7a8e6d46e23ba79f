"""Finds out what each target is, and checks it as that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from beicli.artifact.names import GOLDEN_NAME, MANIFEST_NAME, has_manifest
from beicli.config.load import CONFIG_NAME
from beicli.errors import UsageError
from beicli.findings import Level, Rule
from beicli.validation.findings import TargetKind, TargetReport

NO_TARGET = Rule(
    name="no-target",
    level=Level.ERROR,
    why="there is nothing to check",
)
RULES = (NO_TARGET,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationOptions:
    """What the command line says beside the targets.

    strict: refuse unknown keys. offline: look at checkpoints on this disk only.
    overrides: `key.path=value`, for configurations.
    model: what to call a server's model; None asks the server. api_key: for a server.
    timeout_s: for each answer of a server. progress: hears what a server is asked, a line each.
    """

    strict: bool = False
    offline: bool = False
    overrides: tuple[str, ...] = ()
    model: str | None = None
    api_key: str | None = None
    timeout_s: float = 60.0
    progress: Callable[[str], None] | None = None


def validate_targets(targets: Sequence[str], options: ValidationOptions) -> list[TargetReport]:
    """Check configurations, engine directories and running servers, each for itself.

    Raises UsageError if an option cannot be read, or belongs to none of the targets.
    """
    recognised = [(target, _recognise(target)) for target in targets]
    _check_options(options, [kind for _, kind in recognised if isinstance(kind, TargetKind)])
    return [
        _validate(target, found, options) if isinstance(found, TargetKind) else found
        for target, found in recognised
    ]


def _validate(target: str, kind: TargetKind, options: ValidationOptions) -> TargetReport:
    # Each kind brings its own libraries: a configuration has to be checked in an instant.
    if kind is TargetKind.SERVER:
        from beicli.validation.endpoint.conformance import validate_server

        return validate_server(
            target,
            api_key=options.api_key,
            model=options.model,
            timeout_s=options.timeout_s,
            progress=options.progress,
        )
    if kind is TargetKind.ENGINE:
        from beicli.validation.engine import validate_engine

        return validate_engine(Path(target))
    from beicli.validation.config_target import validate_config_target

    return validate_config_target(
        Path(target),
        overrides=options.overrides,
        strict=options.strict,
        offline=options.offline,
    )


def _check_options(options: ValidationOptions, kinds: Sequence[TargetKind]) -> None:
    if options.overrides and kinds and TargetKind.CONFIG not in kinds:
        raise UsageError(
            "`--set` changes configurations, and no target is one",
            hint="leave it out, or name a config.yaml",
        )
    if options.api_key is not None and kinds.count(TargetKind.SERVER) > 1:
        raise UsageError(
            "`--api-key-file` is for one server; several are named",
            hint="a key is sent to nobody but its server: validate them one by one",
        )


def _recognise(target: str) -> TargetKind | TargetReport:
    """Return what `target` is, or the report that it is nothing that can be checked."""
    try:
        return recognise(target)
    except UsageError as error:
        return TargetReport(
            target=target,
            kind=TargetKind.UNKNOWN,
            findings=(NO_TARGET.broken(error.message, fix=error.hint),),
            num_checks=1,
        )


def recognise(target: str) -> TargetKind:
    """Return what `target` is; raises UsageError if it is nothing that can be checked."""
    if target.lower().startswith(("http://", "https://")):
        return TargetKind.SERVER
    try:
        return _recognise_path(target)
    except OSError as error:
        raise UsageError(f"`{target}` cannot be read: {error.strerror}") from error


def _recognise_path(target: str) -> TargetKind:
    path = Path(target)
    if not path.exists():
        has_port = target.rpartition(":")[2].split("/")[0].isdecimal()
        raise UsageError(
            f"`{target}` does not exist",
            hint=f"for a server write `http://{target}`"
            if has_port
            else "name a config.yaml, a Truss directory, an engine directory or a server's URL",
        )
    if not path.is_dir():
        return TargetKind.CONFIG
    # An engine that lost its manifest is still recognised, to be told so.
    if has_manifest(path) or (path / GOLDEN_NAME).exists():
        return TargetKind.ENGINE
    if not any((path / name).exists() for name in (CONFIG_NAME, "config.yml")):
        raise UsageError(
            f"`{target}` is neither an engine directory nor a Truss directory: it has neither "
            f"`{MANIFEST_NAME}` nor `{CONFIG_NAME}`",
            hint="name the file, or the directory that `bei build` made",
        )
    return TargetKind.CONFIG
