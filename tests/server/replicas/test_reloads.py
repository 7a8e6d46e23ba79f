"""What a supervisor does with a reload, without processes: the replicas are only written down."""

from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from tests.server.fakes import TIMEOUT_S, make_manifest

from beicli.artifact.directory import EngineArtifact
from beicli.server.options import ServerOptions
from beicli.server.replicas.place import Replica
from beicli.server.replicas.plan import ReplicaShare
from beicli.server.replicas.reloads import Reloads
from beicli.server.replicas.words import Outcome


class WrittenDown(Replica):
    """Keeps what it is told."""

    def tell(self, word: object) -> None:
        assert isinstance(word, Outcome)
        told.append(word)


told: list[Outcome] = []


@pytest.fixture
def reloads(tmp_path: Path) -> Reloads:
    told.clear()
    replica = WrittenDown(ReplicaShare(0, ServerOptions(), ()), is_ready=True)
    return Reloads([EngineArtifact(tmp_path / "engine", make_manifest())], [replica])


def hear_opened(reloads: Reloads) -> None:
    assert reloads.opening is not None
    assert wait([reloads.opening], TIMEOUT_S)
    reloads.hear_opened()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("spoil", [link_to_itself, Path.touch])
def test_whatever_is_wrong_with_a_directory_is_told_and_the_server_goes_on(
    reloads: Reloads, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "engine")

    reloads.ask()
    hear_opened(reloads)

    assert told[0].failure is not None
    assert "the old engine goes on serving" in told[0].failure.message
    assert reloads.opening is None


def test_a_verification_that_ends_without_a_word_is_a_reload_that_failed(
    reloads: Reloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beicli.server.replicas.reloads._open", lambda _, there: there.close())

    reloads.ask()
    hear_opened(reloads)

    assert told[0].failure is not None
    assert "EOFError" in told[0].failure.message
