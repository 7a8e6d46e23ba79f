"""Ends what hypercorn's HTTP/2 leaves open: answers of clients that have left, or take nothing.

An answer longer than the client's window waits in a buffer of its stream until the client opens the
window further. Hypercorn empties these buffers for clients alone, so a handler would wait there for
ever once the connection is gone. And a part of a body that comes after the answer finds no stream,
which hypercorn takes for a bug, and ends the connection under all others.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream

Stream = HTTPStream | WSStream

# How often it is looked whether clients take anything, in the time that they have.
NUM_CHECKS = 8


class _Nobody:
    """In the place of a stream that was answered and closed: what it sends is thrown away."""

    idle = True

    async def handle(self, _event: Any) -> None:
        return


class _Streams(dict[int, Any]):
    """The streams of a connection, and nobody for those that are over."""

    def __missing__(self, _stream_id: int) -> Any:
        return _Nobody()


class _Buffers(dict[int, StreamBuffer]):
    """The buffers of a connection's streams, which count what clients took of each."""

    def __init__(self, buffers: dict[int, StreamBuffer]) -> None:
        super().__init__()
        self.num_taken: dict[int, int] = {}
        for stream_id, buffer in buffers.items():
            self[stream_id] = buffer

    def __setitem__(self, stream_id: int, buffer: StreamBuffer) -> None:
        self.num_taken[stream_id] = 0
        take = buffer.pop

        async def pop(max_length: int) -> bytes:
            data = await take(max_length)
            self.num_taken[stream_id] += len(data)
            return data

        buffer.pop = pop  # type: ignore[method-assign]
        super().__setitem__(stream_id, buffer)

    def __delitem__(self, stream_id: int) -> None:
        super().__delitem__(stream_id)
        del self.num_taken[stream_id]


class Http2Watch:
    """Looks after the streams of one connection.

    cut: ends the connection at once; called when a client takes nothing of an answer for as long as
    `stall_timeout_s`.
    """

    def __init__(
        self, protocol: H2Protocol, cut: Callable[[], None], *, stall_timeout_s: float
    ) -> None:
        protocol.streams = _Streams(protocol.streams)
        protocol.stream_buffers = self._buffers = _Buffers(protocol.stream_buffers)
        self._cut = cut
        self._stall_timeout_s = stall_timeout_s
        self._loop = asyncio.get_running_loop()
        # Of each stream that waits for its client: how much it has taken, and since when.
        self._waiting: dict[int, tuple[int, float]] = {}
        self._check_later()

    async def end(self) -> None:
        """Let go of every answer; nobody reads it any more."""
        self._timer.cancel()
        for buffer in list(self._buffers.values()):
            await buffer.close()

    def _check_later(self) -> None:
        self._timer = self._loop.call_later(self._stall_timeout_s / NUM_CHECKS, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        waiting: dict[int, tuple[int, float]] = {}
        for stream_id, buffer in self._buffers.items():
            if buffer.buffer:
                num_taken = self._buffers.num_taken[stream_id]
                before, since = self._waiting.get(stream_id, (-1, now))
                waiting[stream_id] = (num_taken, since if num_taken == before else now)
        self._waiting = waiting
        if any(now - since >= self._stall_timeout_s for _, since in waiting.values()):
            self._cut()
        else:
            self._check_later()
