"""The reloads of a server with replicas: verified once, then exchanged one replica after the other.

A replica exchanges its engine while it serves, as a single process does, so none is missing
meanwhile and only one holds two engines at a time.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from beicli.artifact.directory import EngineArtifact
from beicli.server.reload import UNDER_WAY, explained, open_artifacts
from beicli.server.replicas.place import Replica
from beicli.server.replicas.rolling import RollingReload
from beicli.server.replicas.words import STOP, Failed, Outcome, Renew, Renewed

logger = logging.getLogger(__name__)


class Reloads:
    """One reload at a time, driven by what the supervisor hears; owned by its thread.

    artifacts: what a replica that starts now is to serve.
    """

    artifacts: Sequence[EngineArtifact]

    def __init__(self, artifacts: Sequence[EngineArtifact], replicas: Sequence[Replica]) -> None:
        # A replica that starts later finds the engine of the others, wherever a link leads by then.
        self.artifacts = [replace(each, path=each.path.resolve()) for each in artifacts]
        self._paths = [artifact.path for artifact in artifacts]
        self._replicas = replicas
        self._opening: Connection | None = None
        self._rolling: RollingReload | None = None
        self._fresh: Sequence[EngineArtifact] = ()
        self._asker: Replica | None = None
        self._is_asked_again = False

    @property
    def opening(self) -> Connection | None:
        """What to wait for while directories are verified; `hear_opened` then."""
        return self._opening

    def ask(self, asker: Replica | None = None) -> None:
        """Begin a reload; asker: the replica whose client asks, None for a signal."""
        if self._opening is None and self._rolling is None:
            self._asker = asker
            self._opening, there = Pipe(duplex=False)
            # Reading every byte takes a while, and meanwhile a replica may end.
            threading.Thread(target=_open, args=(self._paths, there), daemon=True).start()
        elif asker is None:
            self._is_asked_again = True
        else:
            asker.tell(Outcome((), Failed(UNDER_WAY, "wait for its end"), is_refused=True))

    def hear_opened(self) -> None:
        """Hear what became of the verification, and begin with the first replica."""
        assert self._opening is not None, "it just said something"
        opened: Sequence[EngineArtifact] | Failed
        try:
            opened = self._opening.recv()
        except (EOFError, OSError) as error:
            opened = _failed(error)
        self._opening.close()
        self._opening = None
        if isinstance(opened, Failed):
            self._finish(opened)
            return
        self._fresh, self._rolling = opened, RollingReload()
        self.go_on()

    def hear_renewed(self, replica: Replica, word: Renewed) -> None:
        """Hear that a replica has exchanged its engine, or why not."""
        if self._rolling is None:
            return
        if self._rolling.ended(replica.number, word.failure):
            logger.error("replica %d is started anew with the new engine", replica.number)
            replica.tell(STOP)
            replica.is_leaving = True
        if self._rolling.renewed:
            self.artifacts = self._fresh
        self.go_on()

    def hear_started(self, replica: Replica) -> None:
        """Hear that a replica was started, with `artifacts`."""
        if self._rolling is not None:
            self._rolling.started(replica.number)

    def hear_ended(self, replica: Replica) -> None:
        """Hear that the process of a replica has ended."""
        if self._asker is replica:
            self._asker = None
        reason = f"the reload failed, and the old engine goes on serving: replica {replica.number} "
        self.hear_renewed(replica, Renewed(Failed(reason + "ended while it loaded", None)))

    def go_on(self) -> None:
        """Tell the next replica, once one is ready for it, or whoever asked."""
        rolling = self._rolling
        if rolling is None:
            return
        running = [each for each in self._replicas if each.process and not each.is_leaving]
        ready = {each.number: each for each in running if each.is_ready}
        number = rolling.take_next(ready)
        if number is not None:
            ready[number].tell(Renew(self._fresh))
        elif rolling.is_over([each.number for each in running]):
            self._rolling = None
            self._finish(rolling.failure)

    def _finish(self, failure: Failed | None) -> None:
        manifests = [artifact.manifest for artifact in self.artifacts]
        witness = self._asker or next((each for each in self._replicas if each.is_ready), None)
        if witness is not None:
            # Its page counts for all.
            witness.tell(Outcome(manifests, failure))
        self._asker = None
        if self._is_asked_again:
            self._is_asked_again = False
            self.ask()


def _open(paths: Sequence[Path], told: Connection) -> None:
    found: Sequence[EngineArtifact] | Failed
    try:
        found = open_artifacts(paths)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server goes on
        found = _failed(error)
    with told:
        told.send(found)


def _failed(error: Exception) -> Failed:
    failure = explained(error)
    return Failed(failure.message, failure.hint)
