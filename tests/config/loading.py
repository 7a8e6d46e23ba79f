"""What the fixtures of this folder are: a config's text, loaded or refused in one call."""

from typing import Protocol

from beicli.config.load import ConfigProblem, LoadedConfig
from beicli.errors import ConfigError


class Load(Protocol):
    """Reads `text` as a `config.yaml`."""

    def __call__(self, text: str, *overrides: str, strict: bool = False) -> LoadedConfig: ...


class Refuse(Protocol):
    """The error that reading `text` raises."""

    def __call__(self, text: str, *overrides: str, strict: bool = False) -> ConfigError: ...


class Problems(Protocol):
    """The problems of the error that reading `text` raises."""

    def __call__(self, text: str, *overrides: str, strict: bool = False) -> list[ConfigProblem]: ...
