"""Reads a Truss `config.yaml`, unchanged, into a checked `Config`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beicli.config.dump import to_dict, to_yaml
from beicli.config.overrides import apply_overrides
from beicli.config.problems import (
    CONFIG_FILE,
    ConfigProblem,
    config_error,
    describe_type,
)
from beicli.config.schema import Config
from beicli.config.source import ConfigSource
from beicli.config.validate import MINIMAL_CONFIG, validate
from beicli.config.yaml_source import parse_yaml
from beicli.errors import ConfigError
from beicli.findings import Level

__all__ = [
    "CheckedConfig",
    "ConfigProblem",
    "LoadedConfig",
    "check_config",
    "load_config",
    "to_dict",
    "to_yaml",
]

CONFIG_NAME = "config.yaml"

# A config is a page of text; whoever names a weights file by mistake should not wait for it.
MAX_SIZE_BYTES = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedConfig:
    """What became of a config: the values as written, what is wrong, in the order of lines.

    config: None if the file or one of its values is wrong by itself; there while the values only do
    not go together. source: None if the file cannot be read.
    """

    config: Config | None
    path: Path
    source: ConfigSource | None
    problems: tuple[ConfigProblem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A checked config, the file it came from, and what is odd about it but no error."""

    config: Config
    path: Path
    warnings: tuple[ConfigProblem, ...]


def load_config(path: Path, *, overrides: Sequence[str] = (), strict: bool = False) -> LoadedConfig:
    """Read and check a config, as `check_config` does.

    Raises ConfigError naming every problem at once, each with its line.
    """
    checked = check_config(path, overrides=overrides, strict=strict)
    is_refused = any(problem.rule.level is Level.ERROR for problem in checked.problems)
    if checked.config is None or is_refused:
        # Warnings too: a misspelt key is often why another one is missing.
        heard = [p for p in checked.problems if p.rule.level is not Level.INFO]
        raise config_error(heard, name=str(checked.path))
    warnings = tuple(p for p in checked.problems if p.rule.level is Level.WARNING)
    return LoadedConfig(config=checked.config, path=checked.path, warnings=warnings)


def check_config(
    path: Path, *, overrides: Sequence[str] = (), strict: bool = False
) -> CheckedConfig:
    """Read a config and say everything that is wrong with it.

    Raises UsageError for an override that cannot be read; nothing that the file could cause.

    path: the file, or the Truss directory that holds it.
    overrides: `key.path=value`, in place of what the file says; see `apply_overrides`.
    strict: a key that nothing reads is an error, not a warning.
    """
    try:
        return _check(path, overrides, strict=strict)
    except ConfigError as error:
        problems = tuple(p for p in error.problems if isinstance(p, ConfigProblem))
        return CheckedConfig(config=None, path=path, source=None, problems=problems)


def _check(path: Path, overrides: Sequence[str], *, strict: bool) -> CheckedConfig:
    file_path, content = _read(path)
    name = str(file_path)
    document = parse_yaml(_decode(content, name), name=name)
    root = document.value
    if root is None and not overrides:
        raise _file_error(f"`{name}` is empty", hint=f"the least it needs:\n\n{MINIMAL_CONFIG}")
    if not isinstance(root, dict | None):
        raise _file_error(
            f"`{name}` should be a mapping of keys, found {describe_type(root)}",
            hint=f"the least it needs:\n\n{MINIMAL_CONFIG}",
        )
    source = ConfigSource(root=root or {}, lines=document.lines)
    source, override_problems = apply_overrides(source, overrides)
    verdict = validate(source, strict=strict)
    # A key given twice, and an override that cannot be applied, are errors all of them.
    refused = (*document.problems, *override_problems)
    return CheckedConfig(
        config=None if refused else verdict.config,
        path=file_path,
        source=source,
        problems=tuple(sorted((*refused, *verdict.problems), key=_line_or_last)),
    )


def _line_or_last(problem: ConfigProblem) -> float:
    return problem.line if problem.line is not None else float("inf")


def _read(path: Path) -> tuple[Path, bytes]:
    """The file itself, and as much of it as a config may have, plus one byte."""
    try:
        file_path = _find_file(path)
        with file_path.open("rb") as file:
            return file_path, file.read(MAX_SIZE_BYTES + 1)
    except OSError as error:
        raise _file_error(
            f"cannot read `{path}`: {error.strerror}", hint="check that it is a readable file"
        ) from error


def _find_file(path: Path) -> Path:
    file_path = path / CONFIG_NAME if path.is_dir() else path
    if file_path.exists():
        return file_path
    if file_path.with_suffix(".yml").is_file():
        raise _file_error(
            "No truss configuration file ending in .yaml but found one ending in .yml."
            " Did you mean to rename it?",
            hint=f"`mv {file_path.with_suffix('.yml')} {file_path}`",
        )
    if path.is_dir():
        raise _file_error(
            f"directory `{path}` holds no `{CONFIG_NAME}`",
            hint="name the file, or a Truss directory",
        )
    raise _file_error(f"there is no file `{path}`", hint="check the path of the config")


def _decode(content: bytes, name: str) -> str:
    if len(content) > MAX_SIZE_BYTES:
        raise _file_error(
            f"`{name}` is longer than {MAX_SIZE_BYTES:,} bytes, so it is no config",
            hint=f"name the `{CONFIG_NAME}`",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise _file_error(
            f"`{name}` is not UTF-8: byte 0x{byte:02x}", hint="save it as UTF-8", line=line
        ) from None


def _file_error(message: str, *, hint: str, line: int | None = None) -> ConfigError:
    problem = ConfigProblem(key_path="", line=line, message=message, hint=hint, rule=CONFIG_FILE)
    return config_error([problem], name="")
