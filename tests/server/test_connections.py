import asyncio
import socket
from contextlib import suppress

import pytest
from starlette.types import Receive, Scope, Send

from beicli.server.connections import Connections


async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("nobody asks anything")


@pytest.mark.parametrize("num_turns", range(6))
@pytest.mark.parametrize("how", ["drain", "abort"])
def test_a_connection_that_comes_in_the_moment_of_a_stop_is_closed(
    how: str, num_turns: int
) -> None:
    async def stop() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname(), timeout=5) as client,
        ):
            connections = Connections.accept(app, listener)
            for _ in range(num_turns):
                await asyncio.sleep(0)

            await (connections.drain() if how == "drain" else connections.abort())
            # A turn of the loop ends what a transport that is closed has left.
            await asyncio.sleep(0)

            # What was never accepted is refused by the kernel.
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""

    asyncio.run(stop())
