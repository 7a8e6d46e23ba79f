"""Writes the parts of an answer to the socket at once: its head and its body are one system call.

Hypercorn writes them one after the other, without giving way to anything in between; each would be
sent by itself, and the client woken twice.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any, cast

# Longer parts are not worth a copy.
MAX_GATHERED_BYTES = 64 * 1024
# A client that takes nothing of its answer for so long is cut: until then it keeps its place.
STALL_TIMEOUT_S = 120.0


class GatheringWriter:
    """A stream writer, as far as hypercorn uses one, that sends when the event loop comes round."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._num_bytes = 0
        # In one piece a long part would be encrypted and handed on as a whole: nobody would wait
        # for the client, and the connection might be closed under it. So `drain` sends it.
        self._is_encrypted = writer.get_extra_info("ssl_object") is not None
        self._long = memoryview(b"")
        if self._is_encrypted:
            # Half a megabyte otherwise, which would have to go while the client says goodbye.
            writer.transport.set_write_buffer_limits(high=MAX_GATHERED_BYTES)

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self._writer.transport

    @classmethod
    def around(cls, writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
        """Return `writer` with its parts gathered."""
        return cast("asyncio.StreamWriter", cls(writer))

    def write(self, data: bytes) -> None:
        """Send `data` after what was written before, soon."""
        if not data:
            return
        if self._num_bytes + len(data) > MAX_GATHERED_BYTES:
            self._flush()
            if self._is_encrypted:
                self._long = memoryview(data)
            else:
                self._writer.write(data)
            return
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._num_bytes += len(data)

    async def drain(self) -> None:
        """Wait while the client reads too slowly for what was sent so far.

        Cuts it, and raises ConnectionAbortedError, once it reads nothing any more.
        """
        long, self._long = self._long, memoryview(b"")
        for start in range(0, len(long), MAX_GATHERED_BYTES):
            self._writer.write(long[start : start + MAX_GATHERED_BYTES])
            await self._drain()
        await self._drain()

    async def _drain(self) -> None:
        transport = self._writer.transport
        num_left = transport.get_write_buffer_size()
        if num_left == 0:
            await self._writer.drain()
            return
        while True:
            try:
                async with asyncio.timeout(STALL_TIMEOUT_S):
                    await self._writer.drain()
                return
            except TimeoutError:
                num_before, num_left = num_left, transport.get_write_buffer_size()
                if num_left >= num_before:
                    transport.abort()
                    raise ConnectionAbortedError("the client reads nothing") from None

    def write_eof(self) -> None:
        """Say that nothing follows."""
        self._flush()
        self._writer.write_eof()

    def close(self) -> None:
        """Close the connection when everything is sent; cut a client that takes nothing of it."""
        self._flush()
        self._writer.close()
        self._watch_rest(_num_unsent(self._writer.transport))

    def _watch_rest(self, num_bytes: int) -> None:
        """Look later whether less is left than `num_bytes`."""
        transport = self._writer.transport

        def look() -> None:
            num_left = _num_unsent(transport)
            if num_left >= num_bytes:
                transport.abort()
            else:
                self._watch_rest(num_left)

        if num_bytes:
            self._loop.call_later(STALL_TIMEOUT_S, look)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        # Clients that say no goodbye of TLS, or another one, have left all the same.
        with suppress(TimeoutError, ssl.SSLError):
            await self._writer.wait_closed()

    def get_extra_info(self, name: str) -> Any:
        """Return what is known of the transport."""
        return self._writer.get_extra_info(name)

    def _flush(self) -> None:
        parts, self._parts, self._num_bytes = self._parts, [], 0
        # The connection may have been cut meanwhile, and then nobody reads this.
        if parts and not self._writer.transport.is_closing():
            self._writer.write(b"".join(parts))


def _num_unsent(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes wait to be sent; none once the connection is gone."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:
        # asyncio's transport of TLS has let go of what it would ask.
        return 0
