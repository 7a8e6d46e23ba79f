"""Reads a checkpoint's JSON files; every complaint names the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from beicli.errors import CheckpointError

T = TypeVar("T", int, str, bool)

_MAX_COUNT = 2**31


class CheckpointFile:
    """One JSON object of a checkpoint, with its name for the complaints."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self.values = values

    @classmethod
    def read(cls, directory: Path, name: str) -> "CheckpointFile":
        """Read a file that must exist and hold a JSON object."""
        path = directory / name
        if not is_file(path):
            raise CheckpointError(
                f"the checkpoint has no `{name}` (expected at `{path}`)",
                hint="a checkpoint is a folder as `save_pretrained` writes it, files at its root",
            )
        values = read_json(path)
        if not isinstance(values, dict):
            raise CheckpointError(f"`{path}` holds a {type(values).__name__}, not a JSON object")
        return cls(name, values)

    @classmethod
    def read_optional(cls, directory: Path, name: str) -> "CheckpointFile":
        """Read a file that may be missing; a missing one holds nothing."""
        return cls.read(directory, name) if is_file(directory / name) else cls(name, {})

    def get(self, key: str, kind: type[T], default: T) -> T:
        """Return the value of `key`, `default` when absent or null; wrong types are refused."""
        value = self.values.get(key)
        if value is None:
            return default
        # bool is an int to Python, not to a checkpoint.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise CheckpointError(
                f"`{key}` in `{self.name}` is {value!r}, wanted a value of type {kind.__name__}"
            )
        return value

    def require_count(self, key: str) -> int:
        """Return the positive integer under `key`."""
        value = self.get(key, int, 0)
        if value < 1:
            raise CheckpointError(
                f"`{key}` in `{self.name}` is {self.values.get(key)!r}, wanted a positive integer"
            )
        if value > _MAX_COUNT:
            raise CheckpointError(f"`{key}` in `{self.name}` is larger than any model's")
        return value


def is_file(path: Path) -> bool:
    """Whether a file of a checkpoint is there; raises CheckpointError if that cannot be told."""
    try:
        return path.is_file()
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of a checkpoint."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: neither UTF-8 nor JSON, or a number of more digits than Python converts.
        raise CheckpointError(f"`{path}` cannot be read as JSON: {error}") from error
