"""Accepts connections one at a time, in turn with other processes that accept from the same socket.

asyncio's own server takes all connections that wait, and uvloop's does so whatever it is told. Nor
does it know of a connection between its acceptance and the task that serves it, so one that comes
in the moment of a stop is forgotten while it is open.
"""

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable

from beicli.server.replicas.turns import Turns

logger = logging.getLogger(__name__)

PAUSE_S = 0.001
# Whoever holds fewer connections may be busy: nobody waits for it for longer than this.
PATIENCE_S = 0.05
# After an accept that failed, mostly since this process may not open more files.
RETRY_S = 1.0
# From the connection to the end of the handshake; and for a client's goodbye, which many never say.
TLS_HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 10.0
# A server at its limit is so at every connection that comes.
TELL_AGAIN_S = 60.0

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Acceptor:
    """Hands the connections of a listening socket, which it owns, to `serve`.

    turns: with the other processes that accept from it; None if there are none.
    max_open: connections at once; what comes above waits in the kernel, None for any number.
    tls: what connections are encrypted with before they are served.
    """

    def __init__(
        self,
        listener: socket.socket,
        serve: Serve,
        turns: Turns | None = None,
        *,
        max_open: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._serve = serve
        self._turns = turns
        self._max_open = max_open
        self._tls = tls
        self._num_open = 0
        self._told_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._patient_until = 0.0
        # The loop itself keeps no reference to a task.
        self._opening: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        if turns is not None:
            turns.begin()
        self._watch()

    def close(self) -> None:
        """Accept no more; connections that are open stay so. May be called again."""
        if self._listener.fileno() == -1:
            return
        if self._timer is not None:
            self._timer.cancel()
        # Before it is closed: other processes hold the same socket, so the kernel would go on
        # telling of its connections.
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._turns is not None:
            self._turns.end()

    async def wait_opened(self) -> None:
        """Wait until `serve` runs for every connection that was accepted, after `close`.

        Those that are still agreeing on TLS are cut: the client may never say its part.
        """
        if self._tls is not None:
            # A task that is cancelled before it has begun would leave its socket open.
            await asyncio.sleep(0)
            for task in self._opening:
                task.cancel()
        while self._opening:
            await asyncio.wait(self._opening)

    @property
    def _is_full(self) -> bool:
        return self._max_open is not None and self._num_open >= self._max_open

    def _watch(self) -> None:
        self._loop.add_reader(self._listener, self._on_waiting)

    def _on_waiting(self) -> None:
        if self._turns is None or not self._turns.is_anothers:
            self._patient_until = 0.0
            self._accept()
        elif self._is_patient():
            self._pause(PAUSE_S)
        else:
            self._accept()

    def _is_patient(self) -> bool:
        """Whether to wait for another; once in vain, and then for as long nobody waits again."""
        now = self._loop.time()
        if now > self._patient_until + PATIENCE_S:
            self._patient_until = now + PATIENCE_S
        return now < self._patient_until

    def _pause(self, duration_s: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(duration_s, self._watch)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another process was quicker, or the client has left.
            return
        except OSError as error:
            logger.error("cannot accept a connection: %s", error)  # noqa: TRY400 - known reasons
            self._pause(RETRY_S)
            return
        connection.setblocking(False)
        self._opened()
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        is_served = False

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
            nonlocal is_served
            is_served = True
            return self._serve_counted(reader, writer)

        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), serve)
        timeouts: dict[str, float] = {}
        if self._tls is not None:
            timeouts["ssl_handshake_timeout"] = TLS_HANDSHAKE_TIMEOUT_S
            timeouts["ssl_shutdown_timeout"] = TLS_SHUTDOWN_TIMEOUT_S
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls, **timeouts
            )
        except (OSError, asyncio.CancelledError):
            # The client has left already, speaks no TLS, or did not come to terms in time. A stop
            # may also come between the terms and the waiting for them.
            if not is_served:
                self._closed()

    async def _serve_counted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            self._closed()

    def _opened(self) -> None:
        self._num_open += 1
        if self._turns is not None:
            self._turns.opened()
        if self._is_full:
            self._loop.remove_reader(self._listener)
            self._tell_full()

    def _closed(self) -> None:
        was_full = self._is_full
        self._num_open -= 1
        if self._turns is not None:
            self._turns.closed()
        if was_full and self._listener.fileno() != -1:
            self._watch()

    def _tell_full(self) -> None:
        now = self._loop.time()
        if now - self._told_at >= TELL_AGAIN_S:
            self._told_at = now
            logger.warning("%d connections are open; others wait until one closes", self._num_open)
