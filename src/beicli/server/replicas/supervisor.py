"""Starts the replicas of a server, starts those anew that end, and stops them all in the end.

The supervisor loads no engine. It holds the listening socket, which every replica accepts from, so
a client that connects while one replica starts anew is accepted by another.
"""

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from types import FrameType

from beicli.artifact.directory import EngineArtifact
from beicli.errors import ServerStartError
from beicli.machine import available_cpus
from beicli.server.loading import CLOSE_TIMEOUT_S
from beicli.server.options import ServerOptions
from beicli.server.replicas import beats
from beicli.server.replicas.beats import Beats
from beicli.server.replicas.pages import end_page
from beicli.server.replicas.place import Replica
from beicli.server.replicas.plan import ReplicaShare, share
from beicli.server.replicas.reloads import Reloads
from beicli.server.replicas.replica import COUNTS_NAME, run_replica
from beicli.server.replicas.topology import neighbours_first
from beicli.server.replicas.turns import OpenConnections
from beicli.server.replicas.words import STOP, Failed, Ready, ReloadAsked, Renewed
from beicli.server.run import bind_socket
from beicli.server.signals import RELOAD_SIGNAL, STOP_SIGNALS, Terminal

logger = logging.getLogger(__name__)

_SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = (*STOP_SIGNALS, RELOAD_SIGNAL)
# In memory, and there even in containers whose own files are read-only.
_MEMORY = Path("/dev/shm")  # noqa: S108 - tempfile makes the name


def run_replicas(
    artifacts: Sequence[EngineArtifact],
    options: ServerOptions,
    *,
    num_replicas: int,
    on_ready: Callable[[str], None],
) -> None:
    """Serve `artifacts` with several processes until SIGTERM or SIGINT; SIGHUP reloads them.

    on_ready: called once with the server's URL, when every replica accepts requests.
    Raises ServerStartError if a replica does not start at first, or all end again and again.
    """
    shares = share(
        options,
        num_replicas=num_replicas,
        num_cpus=available_cpus(),
        cpus=neighbours_first(os.sched_getaffinity(0)),
    )
    with (
        closing(bind_socket(options.host, options.port)) as listener,
        _shared_folder() as shared,
        _signals() as woken,
    ):
        supervisor = _Supervisor(artifacts, listener, shared, woken)
        supervisor.run(shares, on_ready, drain_timeout_s=options.drain_timeout_s)


class _Supervisor:
    """The state of a server with replicas, owned by the main thread.

    woken: gets a byte for every signal.
    """

    def __init__(
        self,
        artifacts: Sequence[EngineArtifact],
        listener: socket.socket,
        shared: Path,
        woken: socket.socket,
    ) -> None:
        self._listener = listener
        self._shared = shared
        self._woken = woken
        self._replicas: list[Replica] = []
        self._reloads = Reloads(artifacts, self._replicas)
        self._terminal = Terminal()
        self._num_stops = 0
        self._checked_at = time.monotonic()
        self._was_ready = False
        self._url = ""

    def run(
        self,
        shares: list[ReplicaShare],
        on_ready: Callable[[str], None],
        *,
        drain_timeout_s: float,
    ) -> None:
        self._replicas += [Replica(each) for each in shares]
        # Now, since starting it would unblock the signals that `_start` blocks.
        ensure_running()
        self._connections = OpenConnections.create(
            self._shared / COUNTS_NAME, num_replicas=len(shares)
        )
        self._beats = Beats.create(self._shared / beats.BEATS_NAME, num_replicas=len(shares))
        try:
            while self._num_stops == 0:
                self._start_due()
                self._wait(min(self._next_start_s(), beats.CHECK_INTERVAL_S))
                self._end_silent()
                self._bury_ended()
                if not self._was_ready and all(each.is_ready for each in self._replicas):
                    self._was_ready = True
                    on_ready(self._url)
        finally:
            self._stop(drain_timeout_s)

    def _start_due(self) -> None:
        now = time.monotonic()
        for replica in self._replicas:
            if replica.process is None and replica.starts_at <= now:
                self._start(replica)

    def _start(self, replica: Replica) -> None:
        ours, theirs = _SPAWN.Pipe()
        replica.control, replica.is_ready, replica.failed = ours, False, None
        replica.is_leaving = False
        replica.process = _SPAWN.Process(
            target=run_replica,
            args=(self._reloads.artifacts, replica.share, self._listener, theirs, self._shared),
            name=f"bei-replica-{replica.share.number}",
        )
        # A new process starts with the signals blocked that are blocked here, and stays so.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            replica.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # The replica has its own; this one would keep the pipe open when it ends.
        theirs.close()
        self._reloads.hear_started(replica)

    def _next_start_s(self) -> float:
        waiting = [each.starts_at for each in self._replicas if each.process is None]
        return max(min(waiting, default=float("inf")) - time.monotonic(), 0.0)

    def _end_silent(self) -> None:
        """End replicas whose event loop hangs; what they are told they would not hear."""
        now = time.monotonic()
        round_s, self._checked_at = now - self._checked_at, now
        if round_s >= beats.PAUSED_AFTER_S:
            # Whoever is well needs time to say so.
            for replica in self._replicas:
                self._beats.beat(replica.share.number)
        for replica in self._replicas:
            if replica.process is None or not replica.is_ready:
                continue
            if self._beats.silent_for_s(replica.share.number) >= beats.SILENCE_LIMIT_S:
                logger.error(
                    "replica %d does nothing for over %g s; killing it",
                    replica.share.number,
                    beats.SILENCE_LIMIT_S,
                )
                replica.process.kill()
                # So that it is buried now, and killed once.
                replica.process.join()

    def _wait(self, timeout_s: float | None) -> None:
        """Wait for a signal, for a word of a replica or for the end of one."""
        running = [each for each in self._replicas if each.process is not None]
        controls = {each.control: each for each in running if each.control is not None}
        sentinels = [each.process.sentinel for each in running if each.process is not None]
        opening = [each for each in [self._reloads.opening] if each is not None]
        for source in wait([self._woken, *opening, *controls, *sentinels], timeout_s):
            if source is self._woken:
                self._hear_signals()
            elif source in opening:
                self._reloads.hear_opened()
            elif source in controls:
                self._hear(controls[source])

    def _hear_signals(self) -> None:
        for number in self._woken.recv(64):
            if number in STOP_SIGNALS or self._terminal.is_gone:
                self._num_stops += 1
            else:
                self._reloads.ask()

    def _hear(self, replica: Replica) -> None:
        assert replica.control is not None, "it just said something"
        try:
            word = replica.control.recv()
        except (EOFError, OSError):
            replica.control.close()
            replica.control = None
            return
        match word:
            case Ready(url=url):
                self._url = url
                replica.is_ready, replica.ready_at = True, time.monotonic()
                self._beats.beat(replica.share.number)
                self._reloads.go_on()
            case Failed():
                replica.failed = word
            case ReloadAsked():
                self._reloads.ask(replica)
            case Renewed():
                self._reloads.hear_renewed(replica, word)

    def _bury_ended(self) -> None:
        """Note which replicas have ended, and when they are started again."""
        for replica in self._replicas:
            process = replica.process
            if process is None or process.is_alive():
                continue
            process.join()
            while replica.control is not None:
                # Its last words may still be in the pipe.
                self._hear(replica)
            end_page(self._shared, replica.share.number)
            self._connections.leave(replica.share.number)
            replica.process = None
            if self._num_stops:
                continue
            self._reloads.hear_ended(replica)
            if replica.is_leaving:
                # At once: it was healthy, and did as it was told.
                replica.starts_at = time.monotonic()
                continue
            replica.backoff = replica.backoff.after(replica.served_s())
            self._check_hope(replica, process.exitcode)
            replica.starts_at = time.monotonic() + replica.backoff.pause_s
            logger.warning(
                "replica %d ended, %s; starting it again in %g s",
                replica.share.number,
                replica.failed.message if replica.failed else f"exit code {process.exitcode}",
                replica.backoff.pause_s,
            )

    def _check_hope(self, replica: Replica, exit_code: int | None) -> None:
        """Raise ServerStartError if starting the replica again would not help."""
        if self._was_ready and any(each.is_of_use for each in (replica, *self._replicas)):
            if replica.backoff.is_hopeless:
                logger.error(
                    "replica %d ended %d times in a row; the others go on without it",
                    replica.number,
                    replica.backoff.num_failures,
                )
            return
        if replica.failed is not None:
            raise ServerStartError(replica.failed.message, hint=replica.failed.hint)
        times = f" {replica.backoff.num_failures} times in a row" if self._was_ready else ""
        raise ServerStartError(
            f"replica {replica.share.number} ended{times}, exit code {exit_code}",
            hint="a negative code is the signal that ended it; -9 often means that memory ran out: "
            "try fewer `--replicas`",
        )

    def _stop(self, drain_timeout_s: float) -> None:
        """Let every replica finish its requests; hurry them at a second signal."""
        # First, so that no connection waits here for somebody to accept it.
        self._listener.close()
        self._num_stops = max(self._num_stops, 1)
        num_told = 0
        deadline = time.monotonic() + drain_timeout_s + 2 * CLOSE_TIMEOUT_S
        while any(each.process is not None for each in self._replicas):
            if self._num_stops > num_told:
                num_told = self._num_stops
                self._tell_to_stop()
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                self._kill()
                return
            self._wait(remaining_s)
            self._bury_ended()

    def _tell_to_stop(self) -> None:
        for replica in self._replicas:
            if replica.process is not None and not replica.is_ready:
                # It has no request to finish, and hears nothing before its engine is loaded.
                replica.process.kill()
            else:
                replica.tell(STOP)

    def _kill(self) -> None:
        for replica in self._replicas:
            if replica.process is not None:
                logger.error("replica %d does not end; killing it", replica.share.number)
                replica.process.kill()
                replica.process.join()


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """Give a folder for what the replicas tell each other, and remove it afterwards."""
    parent = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="bei-replicas-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Turn a signal into a byte, its number, on the socket that is given."""
    reading, writing = socket.socketpair()
    with reading, writing:
        for end in (reading, writing):
            end.setblocking(False)

        def tell(number: int, _: FrameType | None) -> None:
            writing.send(bytes([number]))

        before = {each: signal.signal(each, tell) for each in _SIGNALS}
        try:
            yield reading
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
