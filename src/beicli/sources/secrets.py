"""Finds the secret that a configuration names, and keeps its value out of sight.

Looked for in this order: the environment (the name as written, then in capitals), the file that
BEI_SECRETS_FILE names (YAML or JSON, a mapping of names to values), and the folder that
BEI_SECRETS_DIR names (one file for each secret, as platforms mount them; `/secrets` if unset).
A file that any user of the machine can read is refused, unless it lies on a mount of its own:
there the platform chose its mode.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import yaml

from beicli.errors import ConfigError
from beicli.sources.redaction import redact

_DEFAULT_DIRECTORY = "/secrets"
_MAX_SECRET_BYTES = 2**20
# Shorter parts of a JSON secret, a region or an account, are everyday words.
_MIN_HIDDEN_LENGTH = 6


class Secret:
    """A credential; it is shown by nothing but `reveal`.

    name: as the configuration names it. origin: where it was found, safe to show.
    """

    __slots__ = ("_value", "name", "origin")

    def __init__(self, name: str, value: str, *, origin: str) -> None:
        self.name = name
        self.origin = origin
        self._value = value

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")

    def reveal(self) -> str:
        """Return the value itself, for the library that needs it."""
        return self._value

    def as_object(self) -> Mapping[str, Any] | None:
        """Return the value as the JSON object it is, or None if it is something else."""
        try:
            value = json.loads(self._value)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def redact(self, text: str) -> str:
        """Return `text` with the value, and every long part of a JSON value, masked."""
        parts = [self._value]
        parts += [part for part in (self.as_object() or {}).values() if isinstance(part, str)]
        # A key of several lines may be quoted line by line.
        parts += [line for part in parts for line in part.splitlines()]
        hidden = [part for part in parts if len(part) >= _MIN_HIDDEN_LENGTH]
        forms = [
            form for part in hidden for form in (part, quote(part, safe=""), json.dumps(part)[1:-1])
        ]
        return redact(text, tuple(forms))


def find_secret(name: str) -> Secret | None:
    """Return the secret of this name, None if there is none.

    Raises ConfigError, which never shows a value, when a file of secrets cannot be used.
    """
    for variable in (name, name.upper()):
        value = os.environ.get(variable, "").strip()
        if value:
            return Secret(name, value, origin=f"${variable}")
    return _from_file(name) or _from_directory(name)


def _from_file(name: str) -> Secret | None:
    setting = os.environ.get("BEI_SECRETS_FILE")
    if not setting:
        return None
    path = Path(setting).expanduser()
    values = _parse(path, _read(path, "BEI_SECRETS_FILE"))
    value = values.get(name)
    if value is None:
        return None
    text = _as_text(value, name=f"`{name}` in `{path}`")
    if not isinstance(text, str):
        raise ConfigError(
            f"`{name}` in `{path}` is a {type(value).__name__}; a text or a mapping is wanted",
            hint="put the value in quotes",
        )
    return Secret(name, text.strip(), origin=str(path)) if text.strip() else None


def _as_text(value: object, *, name: str) -> object:
    """Return a JSON secret that is written as the mapping it is as JSON; others as they are."""
    if not isinstance(value, dict):
        return value
    try:
        # YAML reads dates, which JSON writes as texts.
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        # Not as the cause: it may quote the content.
        raise ConfigError(
            f"{name} is a mapping that JSON cannot hold", hint="write its keys as texts"
        ) from None


def _from_directory(name: str) -> Secret | None:
    setting = os.environ.get("BEI_SECRETS_DIR")
    directory = Path(setting or _DEFAULT_DIRECTORY).expanduser()
    if setting and not _is_open(directory):
        raise ConfigError(
            f"BEI_SECRETS_DIR is `{directory}`, which is not a folder that this user may enter",
            hint="name a folder with one file for each secret, or unset it",
        )
    # The name comes from the configuration and must not lead to another folder.
    if "/" in name or "\0" in name or name.startswith(".") or not _is_file(directory / name):
        return None
    text = _read(directory / name, "BEI_SECRETS_DIR").strip()
    return Secret(name, text, origin=str(directory / name)) if text else None


def _is_open(directory: Path) -> bool:
    try:
        return directory.is_dir() and os.access(directory, os.X_OK)
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    # A name that is too long, or a folder that this user may not enter.
    except OSError:
        return False


def _read(path: Path, setting: str) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno())
            if mode.st_mode & stat.S_IROTH and not _is_mounted(path, mode.st_dev):
                raise ConfigError(
                    f"every user of this machine can read the secrets in `{path}`",
                    hint=f"run `chmod 600 {path}`",
                )
            content = file.read(_MAX_SECRET_BYTES + 1)
        if len(content) > _MAX_SECRET_BYTES:
            raise ConfigError(f"`{path}` is too large for a file of secrets")
        return content.decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"`{path}` cannot be read: {error.strerror}", hint=f"{setting} leads there"
        ) from error
    except UnicodeDecodeError:
        # Not as the cause: it holds the content.
        raise ConfigError(f"`{path}` is not UTF-8 text") from None


def _is_mounted(path: Path, device: int) -> bool:
    """Whether the file, or the folder it lies in, is a mount of its own."""
    return path.parent.resolve().parent.stat().st_dev != device


def _parse(path: Path, text: str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        # Not as the cause: it quotes the content.
        raise ConfigError(f"`{path}` is neither YAML nor JSON{line}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"`{path}` holds no mapping; names of secrets with their values are wanted"
        )
    return values
