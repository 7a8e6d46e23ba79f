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
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from beicli.artifact.directory import EngineArtifact
from beicli.errors import BeiError
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.access_log import configure_logging
from beicli.server.metrics import ServerMetrics
from beicli.server.replicas.heartbeat import ends_if_stalled
from beicli.server.replicas.pages import MetricsPages
from beicli.server.replicas.plan import ReplicaShare
from beicli.server.replicas.turns import OpenConnections, Turns
from beicli.server.run import (
    CLOSE_TIMEOUT_S,
    Lifecycle,
    allow_many_connections,
    close_pipeline,
    serve_pipeline,
)

STOP: Literal["stop"] = "stop"
PAGE_INTERVAL_S = 1.0
# In the folder that replicas share: how many connections each of them holds.
COUNTS_NAME = "open-connections"


@dataclass(frozen=True, slots=True)
class Ready:
    """What a replica says once it accepts requests."""

    url: str


@dataclass(frozen=True, slots=True)
class Failed:
    """What a replica says when it ends for a reason that a person can understand."""

    message: str
    hint: str | None


def run_replica(
    artifact: EngineArtifact,
    share: ReplicaShare,
    listener: socket.socket,
    control: Connection,
    shared: Path,
) -> None:
    """Serve until the supervisor says stop; the entry of a replica's process.

    artifact: as the supervisor opened it; its files are not hashed again.
    shared: the folder of what the replicas tell each other.
    """
    if share.cpus:
        os.sched_setaffinity(0, share.cpus)
    configure_logging(share.options.log_format)
    allow_many_connections()
    try:
        asyncio.run(_serve(artifact, share, listener, control, shared))
    except BeiError as error:
        control.send(Failed(error.message, error.hint))
        # Not `sys.exit`: a forward pass that hangs may keep the interpreter from ending.
        os._exit(error.exit_code)


async def _serve(
    artifact: EngineArtifact,
    share: ReplicaShare,
    listener: socket.socket,
    control: Connection,
    shared: Path,
) -> None:
    options = share.options
    metrics = ServerMetrics(MetricsPages(shared, share.number))
    counts = OpenConnections(shared / COUNTS_NAME, num_replicas=options.num_replicas)

    def announce(url: str) -> None:
        obedience.has_served = True
        # Nobody may be there to hear it any more.
        with suppress(OSError):
            control.send(Ready(url))

    lifecycle = Lifecycle(on_ready=announce, turns=Turns(counts, share.number))
    obedience = _Obedience(control, lifecycle, shared, drain_timeout_s=options.drain_timeout_s)
    obedience.begin()
    pipeline = InferencePipeline.open(
        artifact,
        options=options.engine,
        on_batch=metrics.observe_batch,
        limits=options.pipeline,
    )
    writing = asyncio.create_task(_keep_page(metrics))
    try:
        async with ends_if_stalled(pipeline, lifecycle):
            await serve_pipeline(pipeline, options, lifecycle, listener=listener, metrics=metrics)
    finally:
        writing.cancel()
        metrics.keep_page()
        obedience.tidy_up()
        await close_pipeline(pipeline)


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

    def begin(self) -> None:
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
                self._control.recv()
                self._loop.call_soon_threadsafe(self._lifecycle.stop)
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


async def _keep_page(metrics: ServerMetrics) -> None:
    while True:
        metrics.keep_page()
        await asyncio.sleep(PAGE_INTERVAL_S)
