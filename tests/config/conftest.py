"""A config written to a file and loaded, in one call."""

from pathlib import Path

import pytest
from tests.config.loading import Load, Problems, Refuse

from beicli.config.load import ConfigProblem, LoadedConfig, load_config
from beicli.errors import ConfigError


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str, *overrides: str, strict: bool = False) -> LoadedConfig:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides=overrides, strict=strict)

    return load_text


@pytest.fixture
def refuse(load: Load) -> Refuse:
    def refuse_text(text: str, *overrides: str, strict: bool = False) -> ConfigError:
        with pytest.raises(ConfigError) as raised:
            load(text, *overrides, strict=strict)
        return raised.value

    return refuse_text


@pytest.fixture
def problems(refuse: Refuse) -> Problems:
    def problems_of_text(text: str, *overrides: str, strict: bool = False) -> list[ConfigProblem]:
        found = refuse(text, *overrides, strict=strict).problems
        return [problem for problem in found if isinstance(problem, ConfigProblem)]

    return problems_of_text


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One path for all the examples of a property."""
    return tmp_path_factory.mktemp("scratch") / "config.yaml"
