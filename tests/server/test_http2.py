"""Clients of HTTP/2 that leave, stall or go on sending, on a socket of their own."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from starlette.types import Receive, Scope, Send
from tests.server.fakes import TIMEOUT_S

from beicli.server import connections, gathering
from beicli.server.connections import Connections

# More than any client's window: a handler waits for its client on the way.
LONG = b"x" * 1_000_000
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Client:
    """One connection; nothing is read unless `read` is called."""

    def __init__(self, address: Any, *, window: int | None = None) -> None:
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        if window is not None:
            initial = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
            self.http.local_settings = h2.settings.Settings(initial_values={initial: window})
        self.http.initiate_connection()

    def ask(self, stream_id: int, path: str = "/", *, ends: bool = True) -> None:
        headers = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "x")]
        self.http.send_headers(stream_id, headers, end_stream=ends)
        self.send()

    def send(self) -> None:
        self.socket.sendall(self.http.data_to_send())

    def read(self) -> list[h2.events.Event]:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        return self.http.receive_data(data)

    def rest(self) -> bytes:
        """Return what comes of answers until the connection ends."""
        body = b""
        with suppress(ConnectionResetError, EOFError):
            while True:
                for event in self.read():
                    body += getattr(event, "data", b"")
        return body

    def body_of(self, stream_id: int) -> bytes:
        """Read until the answer on a stream is complete, and take all that comes."""
        body = b""
        while True:
            for event in self.read():
                if isinstance(event, h2.events.DataReceived):
                    if event.stream_id == stream_id:
                        body += event.data
                    self.http.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream_id:
                    return body
            self.send()


@contextmanager
def client_of(address: Any, *, window: int | None = None) -> Iterator[Client]:
    client = Client(address, window=window)
    try:
        yield client
    finally:
        client.socket.close()


class Application:
    """Answers `/long` with LONG and all else shortly, without reading bodies."""

    def __init__(self) -> None:
        self.num_inside = 0
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.num_inside += 1
        try:
            if scope["path"] == "/later":
                await self.go_on.wait()
            body = LONG if scope["path"] == "/long" else b"short"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
        finally:
            self.num_inside -= 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - what is awaited here sets no event
            await asyncio.sleep(0.005)


def serve(scenario: Callable[[Any, Application, Connections], Awaitable[None]]) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            app = Application()
            served = Connections.accept(app, listener)
            try:
                await scenario(listener.getsockname(), app, served)
            finally:
                async with asyncio.timeout(TIMEOUT_S):
                    await served.abort()
            assert served.num_open == app.num_inside == 0

    asyncio.run(run())


def test_a_client_that_leaves_amid_its_answer_leaves_nothing_behind() -> None:
    async def scenario(address: Any, app: Application, served: Connections) -> None:
        with client_of(address) as client:
            client.ask(1, "/long")
            await until(lambda: app.num_inside == 1)
            await asyncio.to_thread(client.read)

        await until(lambda: app.num_inside == served.num_open == 0)

    serve(scenario)


def test_a_client_that_opens_no_window_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "STALL_TIMEOUT_S", 0.2)

    async def scenario(address: Any, app: Application, served: Connections) -> None:
        with client_of(address, window=0) as client:
            client.ask(1, "/long")
            await until(lambda: app.num_inside == 1)

            await until(lambda: app.num_inside == served.num_open == 0)
            # Of the answer itself nothing was taken.
            assert await asyncio.to_thread(client.rest) == b""

    serve(scenario)


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "STALL_TIMEOUT_S", 1.0)

    async def scenario(address: Any, _app: Application, _served: Connections) -> None:
        def take_slowly(client: Client) -> int:
            num_bytes = 0
            while num_bytes < len(LONG):
                for event in client.read():
                    if isinstance(event, h2.events.DataReceived):
                        num_bytes += len(event.data)
                        client.http.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                client.send()
                # About two seconds in all, twice what a client that takes nothing has.
                time.sleep(0.03)
            return num_bytes

        with client_of(address) as client:
            client.ask(1, "/long")
            assert await asyncio.to_thread(take_slowly, client) == len(LONG)

    serve(scenario)


def test_what_is_sent_after_an_answer_disturbs_no_other_request() -> None:
    async def scenario(address: Any, app: Application, _served: Connections) -> None:
        with client_of(address) as client:
            client.ask(1, ends=False)
            assert await asyncio.to_thread(client.body_of, 1) == b"short"
            client.ask(3, "/later")
            await until(lambda: app.num_inside == 1)

            client.http.send_data(1, b"the rest of a body", end_stream=True)
            client.send()
            await asyncio.sleep(0.05)
            app.go_on.set()

            assert await asyncio.to_thread(client.body_of, 3) == b"short"

    serve(scenario)


def test_a_stop_cuts_answers_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ABORT_TIMEOUT_S", TIMEOUT_S)

    async def scenario(address: Any, app: Application, served: Connections) -> None:
        with client_of(address, window=0) as client:
            for stream_id in (1, 3, 5):
                client.ask(stream_id, "/long")
            await until(lambda: app.num_inside == 3)

            async with asyncio.timeout(TIMEOUT_S / 2):
                await served.abort()

            assert await asyncio.to_thread(client.rest) == b""

    serve(scenario)


def test_a_connection_that_is_closed_with_something_unread_is_cut_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "STALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connections, "KEEP_ALIVE_TIMEOUT_S", 0.2)
    body = b"x" * 60_000

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            served = Connections.accept(app, listener)
            with socket.create_connection(listener.getsockname()) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
                await until(lambda: served.num_open == 1)
                await until(lambda: served.num_open == 0)
            await served.abort()

    asyncio.run(run())
