from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from beicli.config.keys import all_keys
from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError


def _local(repo: str) -> CheckpointRepository:
    return CheckpointRepository(source=CheckpointSource.LOCAL, repo=repo)


def test_local_path_is_relative_to_the_config_and_the_raw_value_is_kept(tmp_path: Path) -> None:
    repository = _local("../models/minilm")

    assert repository.local_path(relative_to=tmp_path / "examples") == tmp_path / "models/minilm"
    assert repository.repo == "../models/minilm"


def test_absolute_local_path_stays(tmp_path: Path) -> None:
    assert _local("/models/minilm").local_path(relative_to=tmp_path) == Path("/models/minilm")


def test_local_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert _local("~/minilm").local_path(relative_to=Path("/x")) == tmp_path / "minilm"


@pytest.mark.parametrize("repo", ["~nobody-of-this-name/minilm", "a\0b"])
def test_local_path_that_names_nothing_is_an_error_of_the_checkpoint(
    tmp_path: Path, repo: str
) -> None:
    with pytest.raises(CheckpointError, match="does not lead to a directory"):
        _local(repo).local_path(relative_to=tmp_path)


def test_config_cannot_be_changed() -> None:
    repository = _local("a")

    with pytest.raises(FrozenInstanceError):
        repository.repo = "b"


def test_every_key_has_a_meaning_that_ends_as_a_sentence() -> None:
    for path, key in all_keys():
        assert key.meaning.endswith("."), path
