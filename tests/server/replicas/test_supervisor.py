import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tests.server.fakes import make_manifest

from beicli.artifact.directory import EngineArtifact
from beicli.errors import ServerStartError
from beicli.server.options import ServerOptions
from beicli.server.replicas.beats import Beats
from beicli.server.replicas.place import Replica
from beicli.server.replicas.plan import MAX_FAILURES, Backoff, ReplicaShare
from beicli.server.replicas.supervisor import _shared_folder, _Supervisor
from beicli.server.replicas.words import Failed

OOM_KILLED = -9


@pytest.fixture
def supervisor(tmp_path: Path) -> _Supervisor:
    artifact = EngineArtifact(tmp_path, make_manifest())
    with socket.socket() as unused:
        return _Supervisor([artifact], unused, tmp_path, unused)


@pytest.fixture
def replica() -> Replica:
    return Replica(ReplicaShare(1, ServerOptions(), ()), backoff=Backoff(1))


def test_a_replica_that_never_served_ends_the_server_with_its_own_words(
    supervisor: _Supervisor, replica: Replica
) -> None:
    replica.failed = Failed("the engine does not warm up", "rebuild it")

    with pytest.raises(ServerStartError, match="the engine does not warm up") as caught:
        supervisor._check_hope(replica, 1)

    assert caught.value.hint == "rebuild it"


def test_a_replica_that_died_without_a_word_is_named_with_its_signal(
    supervisor: _Supervisor, replica: Replica
) -> None:
    with pytest.raises(ServerStartError, match="replica 1 ended, exit code -9") as caught:
        supervisor._check_hope(replica, OOM_KILLED)

    assert "try fewer `--replicas`" in (caught.value.hint or "")


def test_one_that_served_is_started_again_but_not_for_ever(
    supervisor: _Supervisor, replica: Replica
) -> None:
    supervisor._was_ready = True
    for num_failures in range(1, MAX_FAILURES):
        replica.backoff = Backoff(num_failures)
        supervisor._check_hope(replica, OOM_KILLED)

    replica.backoff = Backoff(MAX_FAILURES)
    with pytest.raises(ServerStartError, match="replica 1 ended 8 times in a row"):
        supervisor._check_hope(replica, OOM_KILLED)


def test_one_that_ends_again_and_again_does_not_end_those_that_serve(
    supervisor: _Supervisor, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    process: Any = FakeProcess()
    other = Replica(ReplicaShare(0, ServerOptions(), ()), process, is_ready=True)
    other.backoff = replica.backoff = Backoff(MAX_FAILURES)
    supervisor._replicas += [other, replica]
    supervisor._was_ready = True

    supervisor._check_hope(replica, OOM_KILLED)

    assert caplog.messages == ["replica 1 ended 8 times in a row; the others go on without it"]
    other.process = None
    with pytest.raises(ServerStartError):
        supervisor._check_hope(replica, OOM_KILLED)


class FakeProcess:
    """Is there until it is killed."""

    is_killed = False

    def kill(self) -> None:
        self.is_killed = True

    def join(self) -> None:
        pass


def test_a_pause_of_everything_is_not_taken_for_replicas_that_hang(
    supervisor: _Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, limit_s = 1000.0, 60.0
    monkeypatch.setattr("beicli.server.replicas.beats.SILENCE_LIMIT_S", limit_s)
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    process: Any = FakeProcess()
    supervisor._replicas.append(
        Replica(ReplicaShare(0, ServerOptions(), ()), process, is_ready=True)
    )
    supervisor._beats = Beats.create(tmp_path / "beats", num_replicas=1)
    supervisor._beats.beat(0)
    supervisor._end_silent()

    now_s += 10 * limit_s
    supervisor._end_silent()
    assert not process.is_killed

    paused_until_s = now_s
    while not process.is_killed:
        now_s += 5.0
        supervisor._end_silent()
    assert now_s - paused_until_s == limit_s


@pytest.mark.parametrize("has_shared_memory", [True, False])
def test_the_shared_folder_is_in_memory_where_there_is_some_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_shared_memory: bool
) -> None:
    memory = tmp_path if has_shared_memory else tmp_path / "missing"
    monkeypatch.setattr("beicli.server.replicas.supervisor._MEMORY", memory)

    with _shared_folder() as folder:
        (folder / "0.page").write_bytes(b"")
        assert (folder.parent == tmp_path) == has_shared_memory

    assert not folder.exists()
