"""Accepts connections and lets hypercorn speak HTTP on them; ends them all when asked to.

Hypercorn's own `serve` is not used: it keeps a connection whose idle client left open until the
keep-alive timeout, and a stop waits for ever for a client that does not read, or that has
pipelined a request. What remains of it is the connection, HTTP/1.1 and HTTP/2 alike.
"""

import asyncio
import logging
import socket
from typing import Self

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from starlette.types import ASGIApp

# Connections the kernel keeps while the event loop is busy: a burst of as many clients as may be
# served at once finds room. The kernel lowers it to net.core.somaxconn.
BACKLOG = 2048
# Longer than the 60 s after which common load balancers drop an idle connection, so that it is
# never this side that closes one while a request is on its way.
KEEP_ALIVE_TIMEOUT_S = 75.0


class _Connection(TCPServer):
    """Hypercorn's connection, which ends when the client leaves, not at the keep-alive timeout."""

    _client_left = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._client_left = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        # Also called after an answer that the client did not wait for.
        if not self._client_left:
            await super()._idle_timeout()


class Connections:
    """The open connections of one server, which `accept` makes."""

    _server: asyncio.Server

    def __init__(self, app: ASGIApp) -> None:
        # Both say ASGI, with types of their own for it.
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._config = _hypercorn_config()
        self._context = WorkerContext(max_requests=None)
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @classmethod
    async def accept(cls, app: ASGIApp, listener: socket.socket) -> Self:
        """Start serving the connections of a listening socket, which is owned from here on."""
        connections = cls(app)
        connections._server = await asyncio.start_server(
            connections._serve, sock=listener, backlog=BACKLOG
        )
        return connections

    async def drain(self) -> None:
        """Take no more connections, close idle ones, and wait until the busy ones are done."""
        self._server.close()
        await self._context.terminated.set()
        while self._open:
            await asyncio.wait(self._open)

    async def abort(self) -> None:
        """Cut what is still open; answers that clients have not read are lost."""
        self._server.close()
        for task, writer in self._open.items():
            # Without this the task would wait for the client to read what is left to send.
            writer.transport.abort()
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "asyncio serves a connection in a task"
        self._open[task] = writer
        try:
            await _Connection(self._app, loop, self._config, self._context, {}, reader, writer)
        except asyncio.CancelledError:
            # By `abort`; asyncio 3.11 would log it as an error.
            return
        finally:
            del self._open[task]


def _hypercorn_config() -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_TIMEOUT_S
    # On HTTP/2 the limit closes a connection under the requests that are still running on it.
    config.keep_alive_max_requests = 2**62
    # Unbounded: a route that answers before it has read the body would block for ever on the
    # message that tells it of the end. Routes read as fast as bodies arrive, so nothing piles up.
    config.max_app_queue_size = 0
    return config
