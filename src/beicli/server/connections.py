"""Accepts connections and lets hypercorn speak HTTP on them; ends them all when asked to.

Hypercorn's own `serve` is not used: it keeps a connection whose idle client left open until the
keep-alive timeout, and a stop waits for ever for a client that does not read, or that has
pipelined a request. What remains of it is the connection, HTTP/1.1 and HTTP/2 alike.
"""

import asyncio
import logging
import socket
import ssl
from http import HTTPStatus
from typing import Self

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from starlette.types import ASGIApp

from beicli.server import gathering
from beicli.server.acceptor import Acceptor
from beicli.server.gathering import GatheringWriter
from beicli.server.http2 import Http2Watch
from beicli.server.idle import IdleContext, IdleTimer
from beicli.server.replicas.turns import Turns

logger = logging.getLogger(__name__)

# Connections the kernel keeps while the event loop is busy: a burst of as many clients as may be
# served at once finds room. The kernel lowers it to net.core.somaxconn.
BACKLOG = 2048
# Longer than the 60 s after which common load balancers drop an idle connection, so that it is
# never this side that closes one while a request is on its way.
KEEP_ALIVE_TIMEOUT_S = 75.0
# From the first byte of a request to the end of its headers: they are sent at once by anyone who
# means it.
HEAD_TIMEOUT_S = 30.0
MAX_HEAD_BYTES = 16 * 1024
# For what is cut to end.
ABORT_TIMEOUT_S = 5.0


class _Connection(TCPServer):
    """Hypercorn's connection, which ends when the client leaves, not at the keep-alive timeout.

    Nor does it wait that long for headers that have begun.
    """

    idle_task: IdleTimer

    def __init__(
        self,
        app: ASGIWrapper,
        config: Config,
        context: IdleContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop, gathering = asyncio.get_running_loop(), GatheringWriter.around(writer)
        super().__init__(app, loop, config, context, {}, reader, gathering)
        self.idle_task = IdleTimer(context, self._close_idle, timeout_s=config.keep_alive_timeout)
        self._is_ended = False
        self._http2: Http2Watch | None = None

    async def _close_idle(self) -> None:
        self._is_ended = True
        await self._initiate_server_close()

    async def _read_data(self) -> None:
        try:
            await self._read_to_the_end()
            await self.protocol.handle(Closed())
        finally:
            # Also where something broke: the other requests of this connection end by it.
            if self._http2 is not None:
                await self._http2.end()
        self.idle_task.end()

    async def _read_to_the_end(self) -> None:
        # Hypercorn's own loop, but for what is watched. What came in the moment of the end is not
        # begun: it would be computed, and counted as answered, on a connection that is closed.
        self._meet_http2()
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            if self._is_ended:
                break
            await self.protocol.handle(RawData(data))
            self._meet_http2()
            await self._watch_idle()

    def _meet_http2(self) -> None:
        """Look after HTTP/2 once it is spoken, from the start or after an upgrade."""
        protocol = self.protocol.protocol
        if self._http2 is None and isinstance(protocol, H2Protocol):
            cut = self.writer.transport.abort
            self._http2 = Http2Watch(protocol, cut, stall_timeout_s=gathering.STALL_TIMEOUT_S)

    async def _watch_idle(self) -> None:
        """See to it that a client is not waited for too long, in what hypercorn leaves open."""
        protocol = self.protocol.protocol
        if isinstance(protocol, H11Protocol):
            # Headers without an end.
            if self.idle_task.is_waiting and protocol.connection.trailing_data[0]:
                self.idle_task.hasten(self._refuse_slow_request, timeout_s=HEAD_TIMEOUT_S)
        elif protocol.idle and not self.idle_task.is_waiting:
            # The greeting of HTTP/2 without TLS counts as a request of HTTP/1.1, which none ends.
            await self.idle_task.restart(self._task_group, self._idle_timeout)

    async def _refuse_slow_request(self) -> None:
        protocol = self.protocol.protocol
        assert isinstance(protocol, H11Protocol), "nothing else was begun"
        await protocol._send_error_response(HTTPStatus.REQUEST_TIMEOUT)  # noqa: SLF001 - as for 431
        await self._initiate_server_close()


class Connections:
    """The open connections of one server, which `accept` makes."""

    _acceptor: Acceptor

    def __init__(self, app: ASGIApp) -> None:
        # Both say ASGI, with types of their own for it.
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._config = _hypercorn_config()
        self._context = IdleContext()
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._is_aborted = False

    @classmethod
    def accept(
        cls,
        app: ASGIApp,
        listener: socket.socket,
        *,
        turns: Turns | None = None,
        max_open: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Start serving the connections of a listening socket, which is owned from here on.

        turns: with the other processes that accept from it too. max_open: connections at once.
        tls: what they are encrypted with, and agree on HTTP/1.1 or HTTP/2 by; None for neither.
        """
        connections = cls(app)
        connections._acceptor = Acceptor(
            listener, connections._serve, turns, max_open=max_open, tls=tls
        )
        return connections

    @property
    def num_open(self) -> int:
        return len(self._open)

    async def drain(self) -> None:
        """Take no more connections, close idle ones, and wait until the busy ones are done."""
        self._acceptor.close()
        await self._acceptor.wait_opened()
        await self._context.terminate_idle()
        while self._open:
            await asyncio.wait(self._open)

    async def abort(self) -> None:
        """Cut what is still open; answers that clients have not read are lost."""
        self._acceptor.close()
        await self._acceptor.wait_opened()
        self._is_aborted = True
        for task, writer in self._open.items():
            # Without this the task would wait for the client to read what is left to send.
            writer.transport.abort()
            task.cancel()
        if self._open:
            # What does not end by being cut twice is a bug of somebody's, and holds nobody up.
            await asyncio.wait(self._open, timeout=ABORT_TIMEOUT_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio serves a connection in a task"
        self._open[task] = writer
        try:
            await _Connection(self._app, self._config, self._context, reader, writer)
        except asyncio.CancelledError:
            # Cut by `abort`: asyncio 3.11 would log it as an error.
            if not self._is_aborted:
                raise
        except Exception as error:  # noqa: BLE001 - whatever a client provokes in hypercorn or h2
            # A group is also what hypercorn makes of an application that is cut between the head of
            # its answer and the body. Errors of the application itself never come here.
            if not self._is_aborted:
                logger.warning("ended a connection: %s", _describe(error))
        finally:
            del self._open[task]


def _describe(error: BaseException) -> str:
    """Name an error, of a group its first, in a line: strangers may cause as many as they like."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _hypercorn_config() -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.keep_alive_timeout = KEEP_ALIVE_TIMEOUT_S
    # On HTTP/2 the limit closes a connection under the requests that are still running on it.
    config.keep_alive_max_requests = 2**62
    # Unbounded: a route that answers before it has read the body would block for ever on the
    # message that tells it of the end. Routes read as fast as bodies arrive, so nothing piles up.
    config.max_app_queue_size = 0
    return config
