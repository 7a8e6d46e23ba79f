"""Clients that send too much, too slowly, or too deep, and more of them than the server takes."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send
from tests.server.certificates import make_certificate, trusting
from tests.server.fakes import TIMEOUT_S, ask, live_server
from tests.server.test_run import EMBEDDINGS, HEAD, connected, is_closed, read_response, request

from beicli.server.connections import MAX_HEAD_BYTES, Connections
from beicli.server.options import ServerOptions, TlsFiles
from beicli.server.tls import make_tls_context

SHORT = ServerOptions(max_input_characters=20)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits for the rest of a request's headers for a moment only."""
    monkeypatch.setattr("beicli.server.connections.HEAD_TIMEOUT_S", 0.15)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"P", HEAD], ids=["a byte", "all but the end"])
def test_headers_that_do_not_end_are_given_up(sent: bytes) -> None:
    with live_server() as server, connected(server) as connection:
        connection.sendall(sent)

        assert read_response(connection) == (408, b"")
        assert is_closed(connection)


@pytest.mark.usefixtures("impatient")
def test_sending_a_byte_now_and_then_gains_no_time() -> None:
    with live_server() as server, connected(server) as connection:
        started_at = time.monotonic()
        connection.setblocking(False)
        answer = b""
        while not answer:
            connection.send(b"G")
            time.sleep(0.02)
            try:
                answer = connection.recv(100)
            except BlockingIOError:
                assert time.monotonic() - started_at < TIMEOUT_S

    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("impatient")
def test_headers_that_do_not_end_are_given_up_behind_an_answered_request_too() -> None:
    with live_server() as server, connected(server) as connection:
        connection.sendall(request(b'{"input": "w1"}') + b"POST")
        assert read_response(connection)[0] == 200

        connection.sendall(b" /")

        assert read_response(connection)[0] == 408


@pytest.mark.usefixtures("impatient")
def test_whoever_has_begun_nothing_is_waited_for() -> None:
    with live_server() as server, connected(server) as fresh, connected(server) as used:
        used.sendall(request(b'{"input": "w1"}'))
        assert read_response(used)[0] == 200
        time.sleep(0.4)

        for connection in (fresh, used):
            connection.sendall(request(b'{"input": "w1"}'))
            assert read_response(connection)[0] == 200


def test_headers_in_parts_are_read_and_a_body_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Enough for the parts of the headers on a busy machine.
    head_timeout_s = 2.0
    monkeypatch.setattr("beicli.server.connections.HEAD_TIMEOUT_S", head_timeout_s)
    whole = request(b'{"input": "w1"}')
    with live_server() as server, connected(server) as connection:
        connection.sendall(whole[:10])
        time.sleep(0.03)
        connection.sendall(whole[10:-5])
        time.sleep(1.2 * head_timeout_s)
        connection.sendall(whole[-5:])

        assert read_response(connection)[0] == 200


# What an HTTP/2 client begins with: the preface, and settings that change none.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def answers_until_closed(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1000), b""))


def test_an_http2_client_that_asks_nothing_is_closed_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beicli.server.connections.KEEP_ALIVE_TIMEOUT_S", 0.2)
    with live_server() as server, connected(server) as connection:
        connection.sendall(GREETING)

        assert answers_until_closed(connection) != b""


def test_an_http2_client_that_asks_nothing_does_not_hold_up_a_stop() -> None:
    with live_server() as server, connected(server) as connection:
        connection.sendall(GREETING)
        assert connection.recv(1000) != b""

        server.stop()

        assert server.join(timeout_s=2)


def test_headers_that_are_too_long_are_refused() -> None:
    with live_server() as server, connected(server) as connection:
        connection.sendall(HEAD + b"x-long: " + b"x" * MAX_HEAD_BYTES)

        assert read_response(connection)[0] == 431


def is_served(connection: socket.socket, *, within_s: float) -> bool:
    connection.settimeout(within_s)
    try:
        return connection.recv(1) == b"H"
    except TimeoutError:
        return False


def test_connections_above_the_limit_wait_until_one_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        live_server(options=ServerOptions(port=0, max_connections=2)) as server,
        connected(server) as first,
        connected(server) as second,
        connected(server) as third,
    ):
        for connection in (first, second):
            connection.sendall(request(b'{"input": "w1"}'))
            assert is_served(connection, within_s=TIMEOUT_S)
        third.sendall(request(b'{"input": "w1"}'))
        assert not is_served(third, within_s=0.2)

        first.close()

        assert is_served(third, within_s=TIMEOUT_S)
    assert caplog.messages == ["2 connections are open; others wait until one closes"]


def test_a_server_at_its_limit_of_connections_stops_as_any_other() -> None:
    with ExitStack() as clients:
        with live_server(options=ServerOptions(port=0, max_connections=1)) as server:
            first = clients.enter_context(connected(server))
            first.sendall(request(b'{"input": "w1"}'))
            assert is_served(first, within_s=TIMEOUT_S)
            waiting = clients.enter_context(connected(server))

            server.stop()

            assert server.join(timeout_s=2)
        assert is_closed(waiting)


LONG_ANSWER = 32_000_000


async def answer_at_length(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(LONG_ANSWER)})


@asynccontextmanager
async def asking_at_length(
    files: TlsFiles | None = None,
) -> AsyncIterator[tuple[Connections, asyncio.StreamReader]]:
    """Ask for an answer that is longer than what lies between server and client can hold."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    ours, theirs = (make_tls_context(files), trusting(files)) if files else (None, None)
    connections = Connections.accept(answer_at_length, listener, tls=ours)
    reader, writer = await asyncio.open_connection(*address, limit=1, ssl=theirs)
    writer.write(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield connections, reader
    finally:
        writer.close()
        await connections.abort()


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_client_that_reads_nothing_of_its_answer_is_cut(
    is_encrypted: bool,  # noqa: FBT001 - pytest's way
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("beicli.server.gathering.STALL_TIMEOUT_S", 0.1)
    files = make_certificate(tmp_path) if is_encrypted else None

    async def wait() -> None:
        async with asking_at_length(files) as (connections, _):
            for wanted in (1, 0):
                while len(connections._open) != wanted:  # noqa: ASYNC110 - it sets no event
                    await asyncio.sleep(0.01)

    asyncio.run(wait())

    assert caplog.records == []


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_client_that_reads_slowly_gets_its_whole_answer(
    is_encrypted: bool,  # noqa: FBT001 - pytest's way
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("beicli.server.gathering.STALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr("beicli.server.acceptor.TLS_SHUTDOWN_TIMEOUT_S", 0.3)
    files = make_certificate(tmp_path) if is_encrypted else None

    async def read() -> int:
        num_read = 0
        async with asking_at_length(files) as (_, reader):
            while received := await reader.read(1_000_000):
                num_read += len(received)
                await asyncio.sleep(0.02)
        return num_read

    assert asyncio.run(read()) > LONG_ANSWER


def nested(depth: int) -> dict[str, bytes]:
    return {
        "array": b"[" * depth,
        "object": b'{"a":' * depth,
        "field": b'{"input": "w1", "x": ' + b"[" * depth + b"]" * depth + b"}",
        "input": b'{"input": ' + b"[" * depth + b"]" * depth + b"}",
    }


@pytest.mark.parametrize("kind", nested(1))
def test_json_of_a_million_levels_is_refused_and_does_not_harm_the_server(kind: str) -> None:
    headers = {"content-type": "application/json"}
    with live_server() as server:
        answer = httpx2.post(
            server.url + EMBEDDINGS, content=nested(1_000_000)[kind], headers=headers
        )
        again = httpx2.post(server.url + EMBEDDINGS, json={"input": "w1"})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"
    assert again.status_code == 200


@pytest.mark.parametrize("depth", [900, 990, 1000, 1010, 1020, 1024, 1030])
@pytest.mark.parametrize("kind", nested(1))
def test_json_as_deep_as_is_read_is_no_bug_either(kind: str, depth: int) -> None:
    headers = {"content-type": "application/json"}

    answer = ask(
        "POST",
        EMBEDDINGS,
        content=nested(depth)[kind],
        headers=headers,
        options=ServerOptions(max_input_characters=1),
    )

    assert answer.status_code in {200, 400, 422}


LONG = "w1 " * 7


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/embeddings", {"input": LONG}, "input"),
        ("/v1/embeddings", {"input": ["w1", [5, 6], LONG]}, "input[2]"),
        ("/embed", {"inputs": ["w1", LONG], "truncate": True}, "inputs[1]"),
        (
            "/similarity",
            {"inputs": {"source_sentence": LONG, "sentences": ["w1"]}},
            "inputs.source_sentence",
        ),
        ("/vertex", {"instances": [{"inputs": "w1"}, {"inputs": LONG}]}, "instances[1].inputs"),
        ("/tokenize", {"inputs": [LONG]}, "inputs[0]"),
    ],
)
def test_a_text_of_too_many_characters_is_refused_by_its_place(
    path: str, body: dict[str, object], place: str
) -> None:
    answer = ask("POST", path, json=body, options=SHORT)

    assert answer.status_code == 422
    found = answer.json()
    refusal = found["error"] if isinstance(found["error"], dict) else found
    message = refusal.get("message", refusal.get("error"))
    assert message == f"`{place}` has 21 characters; 20 are read at most"
    assert "split the text" in refusal["hint"]


def test_texts_up_to_the_limit_are_read_however_many_they_are() -> None:
    # 20 characters, of two bytes each.
    body = {"input": ["é" * 20] * 50, "user": None}

    assert ask("POST", EMBEDDINGS, json=body, options=SHORT).status_code == 200


def test_token_ids_have_no_characters() -> None:
    body = {"input": [[5, 6, 7] * 3] * 20}

    assert ask("POST", EMBEDDINGS, json=body, options=SHORT).status_code == 200
