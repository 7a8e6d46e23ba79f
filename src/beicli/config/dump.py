"""A config as plain values, ready for `config.yaml` or JSON."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import yaml

from beicli.config.schema import AcceleratorSpec, Config


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as JSON knows it; loading it again gives an equal `Config`."""
    plain = _plain(config)
    assert isinstance(plain, dict)
    return plain


def to_yaml(config: Config) -> str:
    """The resolved configuration as the text of a `config.yaml`.

    ASCII only: PyYAML writes some of Unicode's line breaks bare, and reads them as spaces.
    """
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=False)


def _plain(value: object) -> object:
    match value:
        case AcceleratorSpec() | str():
            return str(value)
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case None | bool() | int() | float():
            return value
    return {
        entry.name: _plain(getattr(value, entry.name))
        for entry in fields(value)  # type: ignore[arg-type]  # nothing but our dataclasses is left
    }
