import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send
from tests.server.certificates import make_certificate, trusting

from beicli.server.connections import Connections
from beicli.server.tls import make_tls_context


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


@pytest.mark.parametrize("how", ["drain", "abort"])
def test_a_stop_at_any_point_of_a_handshake_leaves_nothing_open(how: str, tmp_path: Path) -> None:
    files = make_certificate(tmp_path)

    async def stop(num_turns: int) -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            connections = Connections.accept(app, listener, tls=make_tls_context(files))
            client = asyncio.create_task(asyncio.open_connection(*address, ssl=trusting(files)))
            for _ in range(num_turns):
                await asyncio.sleep(0)
            await (connections.drain() if how == "drain" else connections.abort())
            with suppress(OSError):
                _, writer = await client
                writer.close()
            return connections._acceptor._num_open

    assert {asyncio.run(stop(num_turns)) for num_turns in range(40)} == {0}
