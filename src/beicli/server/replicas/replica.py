"""One replica: a process that serves on a socket it was given, and does what its pipe says.

It hears no signals, which the supervisor blocks when it starts it. Terminals and service managers
send them to a whole group of processes, and the supervisor, which gets them as well, tells its
replicas what to do: `stop` once, or twice to hurry. A pipe that is closed says that the supervisor
is gone, and a replica does not outlive it.
"""

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest
from beicli.errors import BeiError, UnhealthyError
from beicli.server.access_log import configure_logging
from beicli.server.errors import ReloadError, ReloadUnderWayError
from beicli.server.front import Front, model_names
from beicli.server.lifecycle import Lifecycle, unless_stopped
from beicli.server.loading import CLOSE_TIMEOUT_S
from beicli.server.metrics import ServerMetrics
from beicli.server.reload import UNDER_WAY, explained, renew
from beicli.server.replicas.beats import BEATS_NAME, Beats
from beicli.server.replicas.heartbeat import ends_if_stalled
from beicli.server.replicas.pages import MetricsPages
from beicli.server.replicas.plan import ReplicaShare
from beicli.server.replicas.turns import OpenConnections, Turns
from beicli.server.replicas.words import (
    STOP,
    Failed,
    Outcome,
    Ready,
    ReloadAsked,
    Renew,
    Renewed,
)
from beicli.server.run import allow_many_connections, serve_front
from beicli.server.several_metrics import metrics_of

PAGE_INTERVAL_S = 1.0
# In the folder that replicas share: how many connections each of them holds.
COUNTS_NAME = "open-connections"


def run_replica(
    artifacts: Sequence[EngineArtifact],
    share: ReplicaShare,
    listener: socket.socket,
    control: Connection,
    shared: Path,
) -> None:
    """Serve until the supervisor says stop; the entry of a replica's process.

    artifacts: as the supervisor opened them; their files are not hashed again.
    shared: the folder of what the replicas tell each other.
    """
    if share.cpus:
        os.sched_setaffinity(0, share.cpus)
    configure_logging(share.options.log_format)
    allow_many_connections()
    try:
        asyncio.run(_serve(artifacts, share, listener, control, shared))
    except BeiError as error:
        control.send(Failed(error.message, error.hint))
        # Not `sys.exit`: a forward pass that hangs may keep the interpreter from ending.
        os._exit(error.exit_code)


async def _serve(
    artifacts: Sequence[EngineArtifact],
    share: ReplicaShare,
    listener: socket.socket,
    control: Connection,
    shared: Path,
) -> None:
    options = share.options
    names = model_names(options, [artifact.manifest for artifact in artifacts])
    metrics = metrics_of(names, MetricsPages(shared, share.number))
    front = Front(options, metrics, num_engines=len(names))
    beats = Beats.open(shared / BEATS_NAME, num_replicas=options.num_replicas)
    counts = OpenConnections.open(shared / COUNTS_NAME, num_replicas=options.num_replicas)

    def announce(url: str) -> None:
        obedience.has_served = True
        # Nobody may be there to hear it any more.
        with suppress(OSError):
            control.send(Ready(url))

    lifecycle = Lifecycle(on_ready=announce, turns=Turns(counts, share.number))
    obedience = _Obedience(control, lifecycle, shared, drain_timeout_s=options.drain_timeout_s)
    renewal = _Renewal(front, control, lifecycle)
    front.reload = renewal.ask
    obedience.begin(renewal)
    writing = asyncio.create_task(_keep_page(front.metrics))
    beating = asyncio.create_task(beats.keep_beating(share.number))
    try:
        async with ends_if_stalled(front, lifecycle):
            await serve_front(
                front,
                lambda: front.load(artifacts, checks_answers=False),
                lifecycle,
                listener=listener,
            )
    finally:
        writing.cancel()
        beating.cancel()
        front.metrics.keep_page()
        obedience.tidy_up()
        await front.close()


class _Obedience:
    """Does what the supervisor says, in a thread: the event loop is busy while an engine loads.

    has_served: whether there may be requests to finish; to be set.
    """

    def __init__(
        self, control: Connection, lifecycle: Lifecycle, shared: Path, *, drain_timeout_s: float
    ) -> None:
        self._control = control
        self._lifecycle = lifecycle
        self._shared = shared
        self._drain_timeout_s = drain_timeout_s
        self._loop = asyncio.get_running_loop()
        self.has_served = False
        self._is_abandoned = False

    def begin(self, renewal: "_Renewal") -> None:
        self._renewal = renewal
        threading.Thread(target=self._listen, name="bei-supervisor", daemon=True).start()

    def tidy_up(self) -> None:
        """Remove what the supervisor would have removed, if it was killed.

        The other replicas may still write there; whichever ends last leaves nothing.
        """
        if self._is_abandoned:
            shutil.rmtree(self._shared, ignore_errors=True)

    def _listen(self) -> None:
        try:
            while True:
                word = self._control.recv()
                do = self._lifecycle.stop if word == STOP else partial(self._renewal.hear, word)
                self._loop.call_soon_threadsafe(do)
        except (EOFError, OSError):
            self._leave()
        except RuntimeError:
            # The loop is closed, so this process is ending already.
            return

    def _leave(self) -> None:
        """End with the supervisor, which was killed, after the requests that still run."""
        self._is_abandoned = True
        self.tidy_up()
        if self.has_served:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._lifecycle.stop)
            time.sleep(self._drain_timeout_s + 3 * CLOSE_TIMEOUT_S)
        # An engine still loads or the event loop hangs, and nobody else is left to end it.
        os._exit(1)


class _Renewal:
    """Exchanges the engine when the supervisor says so, and asks it to when a client does."""

    def __init__(self, front: Front, control: Connection, lifecycle: Lifecycle) -> None:
        self._front = front
        self._control = control
        self._lifecycle = lifecycle
        self._outcome: asyncio.Future[Outcome] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def ask(self) -> Sequence[Manifest]:
        """Have all replicas reload, and return what they serve then; see `Reloader.reload`."""
        if self._outcome is not None:
            raise ReloadUnderWayError(UNDER_WAY, hint="wait for its end")
        self._outcome = asyncio.get_running_loop().create_future()
        try:
            self._control.send(ReloadAsked())
            outcome = await unless_stopped(_wait_for(self._outcome), self._lifecycle)
        finally:
            self._outcome = None
        if outcome is None:
            raise UnhealthyError("the server is shutting down")
        if (failure := outcome.failure) is not None:
            kind = ReloadUnderWayError if outcome.is_refused else ReloadError
            raise kind(failure.message, hint=failure.hint)
        return outcome.manifests

    def hear(self, word: Renew | Outcome) -> None:
        """Do what the supervisor says, on the event loop's thread."""
        if isinstance(word, Renew):
            self._renewing = asyncio.create_task(self._renew(word))
            return
        if not word.is_refused:
            self._front.metrics.reloaded("success" if word.failure is None else "failure")
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(word)

    async def _renew(self, word: Renew) -> None:
        failure = None
        try:
            if await unless_stopped(renew(self._front, word.artifacts), self._lifecycle) is None:
                # Nothing was exchanged; the supervisor hears that this process has ended.
                return
        except Exception as error:  # noqa: BLE001 - the boundary to the supervisor
            told = explained(error)
            failure = Failed(told.message, told.hint)
        # Nobody may be there to hear it any more.
        with suppress(OSError):
            self._control.send(Renewed(failure))


async def _wait_for(outcome: "asyncio.Future[Outcome]") -> Outcome:
    return await outcome


async def _keep_page(metrics: ServerMetrics) -> None:
    while True:
        metrics.keep_page()
        await asyncio.sleep(PAGE_INTERVAL_S)
