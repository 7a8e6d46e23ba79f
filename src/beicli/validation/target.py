"""Finds out what a target is, and checks it as that."""

from dataclasses import dataclass
from pathlib import Path

from beicli.artifact.names import GOLDEN_NAME, MANIFEST_NAME, REPORT_NAME
from beicli.config.load import CONFIG_NAME
from beicli.errors import UsageError
from beicli.validation.findings import TargetKind, TargetReport

# An engine that lost its manifest is still recognised, to be told so.
_ENGINE_NAMES = (MANIFEST_NAME, GOLDEN_NAME, REPORT_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationOptions:
    """What the command line says beside the targets.

    strict: refuse unknown keys. offline: look at checkpoints on this disk only.
    overrides: `key.path=value`, for configurations.
    model: what to call a server's model; None asks the server. api_key_file: for servers.
    """

    strict: bool = False
    offline: bool = False
    overrides: tuple[str, ...] = ()
    model: str | None = None
    api_key_file: Path | None = None


def validate_target(target: str, options: ValidationOptions) -> TargetReport:
    """Check a configuration, an engine directory or a running server.

    Raises UsageError if `target` is none of them.
    """
    kind = recognise(target)
    # Each kind brings its own libraries: a configuration has to be checked in an instant.
    if kind is TargetKind.SERVER:
        from beicli.validation.endpoint.conformance import validate_server

        return validate_server(target, api_key=_read_key(options.api_key_file), model=options.model)
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


def recognise(target: str) -> TargetKind:
    """Return what `target` is; raises UsageError if it is nothing that can be checked."""
    if target.startswith(("http://", "https://")):
        return TargetKind.SERVER
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
    if any((path / name).exists() for name in _ENGINE_NAMES):
        return TargetKind.ENGINE
    if not any(path.glob("config.y*ml")):
        raise UsageError(
            f"`{target}` is neither an engine directory nor a Truss directory: it has neither "
            f"`{MANIFEST_NAME}` nor `{CONFIG_NAME}`",
            hint="name the file, or the directory that `bei build` made",
        )
    return TargetKind.CONFIG


def _read_key(path: Path | None) -> str | None:
    """Return the first key of the file."""
    if path is None:
        return None
    try:
        keys = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` cannot be read: {error}") from error
    if not keys:
        raise UsageError(f"`{path}` holds no key", hint="write one key a line")
    return keys[0]
