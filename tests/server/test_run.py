import asyncio
import errno
import http.client
import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import httpx2
import numpy as np
import pytest
from starlette.types import Receive, Scope, Send
from tests.server.fakes import (
    TIMEOUT_S,
    FakeEngine,
    LiveServer,
    live_server,
    make_pipeline,
    serve_pipeline,
    vector,
    wait_until,
    word_ids,
)
from tests.server.tiny_engine import make_artifact

from beicli.engine.batch import Batch, EngineOutput
from beicli.errors import EngineLostError, ServerStartError
from beicli.server.connections import Connections
from beicli.server.lifecycle import Lifecycle, ends_if_lost
from beicli.server.loading import close_pipeline
from beicli.server.options import ServerOptions
from beicli.server.run import (
    _explain_bind_error,
    bind_socket,
    connections_with_files,
    run_server,
)

EMBEDDINGS = "/v1/embeddings"
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"


@contextmanager
def connected(server: LiveServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        yield connection


def request(body: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def read_response(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    with response:
        return response.status, response.read()


def is_closed(connection: socket.socket) -> bool:
    """Wait for the other side to close."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


class Background:
    """A request in a thread."""

    def __init__(self, server: LiveServer, text: str = "w1") -> None:
        self._send = lambda: httpx2.post(
            server.url + EMBEDDINGS, json={"input": text}, timeout=TIMEOUT_S
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._response = self._send()

    def response(self) -> httpx2.Response:
        self._thread.join(TIMEOUT_S)
        return self._response


def test_2000_texts_at_once_each_get_their_own_answer() -> None:
    async def run(url: str) -> list[list[float]]:
        async with aiohttp.ClientSession(url) as session:

            async def embed(number: int) -> list[float]:
                async with session.post(EMBEDDINGS, json={"input": f"w{number}"}) as response:
                    embedding: list[float] = (await response.json())["data"][0]["embedding"]
                    return embedding

            return await asyncio.gather(*(embed(number) for number in range(2000)))

    with live_server(FakeEngine(num_slots=2)) as server:
        answers = asyncio.run(run(server.url))

    expected = [vector(word_ids(number)) for number in range(2000)]
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_a_connection_serves_many_requests() -> None:
    with live_server() as server, connected(server) as connection:
        for _ in range(3):
            connection.sendall(request(b'{"input": "w1"}'))
            assert read_response(connection)[0] == 200


def test_http2_without_tls_is_served() -> None:
    with live_server() as server, httpx2.Client(http1=False, http2=True) as client:
        response = client.post(server.url + EMBEDDINGS, json={"input": "w1"})

    assert (response.status_code, response.http_version) == (200, "HTTP/2")


def test_work_of_a_client_that_left_is_not_done() -> None:
    engine = FakeEngine()
    with live_server(engine) as server:
        num_warm_up = engine.num_sequences
        engine.gate.clear()
        first = Background(server)
        wait_until(lambda: server.pipeline.stalled_for_s() > 0 and server.pipeline.num_waiting == 0)
        with connected(server) as leaving:
            leaving.sendall(request(b'{"input": ["w2", "w3", "w4"]}'))
            wait_until(lambda: server.pipeline.num_waiting == 3)
        wait_until(lambda: b'te_request_failure{err="dropped"} 1.0' in server.metrics.render())
        engine.gate.set()

        assert first.response().status_code == 200
        assert httpx2.post(server.url + EMBEDDINGS, json={"input": "w5"}).status_code == 200

    assert engine.num_sequences == num_warm_up + 2


@pytest.mark.parametrize("linger", [None, struct.pack("ii", 1, 0)], ids=["closed", "reset"])
def test_clients_that_leave_at_any_point_leave_nothing_behind(
    linger: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    post, get = request(b'{"input": ["w1", "w2"]}'), b"GET /info HTTP/1.1\r\nhost: test\r\n\r\n"
    with live_server() as server:
        num_tasks = server.num_tasks()
        for sent in [post[:length] for length in range(0, len(post), 5)] + [post, get] * 10:
            with connected(server) as connection:
                connection.sendall(sent)
                if linger is not None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        wait_until(lambda: server.num_tasks() == num_tasks)

    assert caplog.records == []


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_refused_and_the_connection_lives_on(is_chunked: bool) -> None:  # noqa: FBT001 - pytest's way
    body = b'{"input": "' + b"w1 " * 1_000_000 + b'"}'
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)

    options = ServerOptions(port=0, max_body_bytes=1000)
    with live_server(options=options) as server, connected(server) as connection:
        connection.sendall(chunked if is_chunked else request(body))
        refusal = read_response(connection)
        connection.sendall(request(b'{"input": "w1"}'))
        answer = read_response(connection)

    assert refusal[0] == 413
    assert b"length limit exceeded" in refusal[1]
    assert answer[0] == 200


def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    options = ServerOptions(port=0, max_body_bytes=1000)
    with live_server(options=options) as server, connected(server) as connection:
        connection.sendall(HEAD + b"content-length: 5000000\r\n\r\n")
        assert read_response(connection)[0] == 413
        connection.sendall(b" " * 5_000_000)


def test_a_body_nobody_reads_does_not_hold_up_the_server() -> None:
    body = b"x" * 5_000_000
    head = b"POST /health HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n" % len(body)

    with live_server() as server, connected(server) as connection:
        connection.sendall(head + body)
        assert read_response(connection)[0] == 405


def test_a_stop_lets_running_requests_finish_and_takes_no_new_ones() -> None:
    with live_server() as server:
        server.engine.gate.clear()
        running = Background(server)
        wait_until(lambda: server.pipeline.stalled_for_s() > 0)

        server.stop()

        wait_until(lambda: is_refused(server))
        server.engine.gate.set()
        assert running.response().status_code == 200
        assert server.join()


def is_refused(server: LiveServer) -> bool:
    try:
        with connected(server):
            return False
    except ConnectionRefusedError:
        return True


def test_idle_connections_do_not_hold_up_a_stop() -> None:
    with live_server() as server, connected(server) as used, connected(server) as unused:
        used.sendall(request(b'{"input": "w1"}'))
        assert read_response(used)[0] == 200

        server.stop()

        assert server.join(timeout_s=2)
        assert is_closed(used)
        assert is_closed(unused)


def test_requests_that_run_beyond_the_drain_are_told_why(caplog: pytest.LogCaptureFixture) -> None:
    with live_server(options=ServerOptions(port=0, drain_timeout_s=0.05)) as server:
        server.engine.gate.clear()
        running = Background(server)
        wait_until(lambda: server.pipeline.stalled_for_s() > 0)

        server.stop()
        response = running.response()

    assert response.status_code == 503
    assert response.json()["error"]["message"] == "the server is shutting down"
    assert "ending what still runs; requests: 1" in caplog.text


def test_a_second_stop_does_not_wait_for_the_drain() -> None:
    with live_server(options=ServerOptions(port=0, drain_timeout_s=60)) as server:
        server.engine.gate.clear()
        running = Background(server)
        wait_until(lambda: server.pipeline.stalled_for_s() > 0)

        server.stop()
        server.stop()

        assert running.response().status_code == 503


def test_a_client_that_never_finishes_its_request_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beicli.server.run.CLOSE_TIMEOUT_S", 0.1)
    options = ServerOptions(port=0, drain_timeout_s=0.05, max_concurrent_requests=1)
    with live_server(options=options) as server, connected(server) as connection:
        connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        other = {"url": server.url + EMBEDDINGS, "json": {"input": "w1"}}
        wait_until(lambda: httpx2.post(**other).status_code == 429)

        server.stop()

        assert server.join(timeout_s=2)


def test_a_client_that_waits_with_a_second_request_behind_the_first_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beicli.server.run.CLOSE_TIMEOUT_S", 0.1)
    with live_server() as server, connected(server) as connection:
        server.engine.gate.clear()
        connection.sendall(request(b'{"input": "w1"}') * 2)
        wait_until(lambda: server.pipeline.stalled_for_s() > 0)

        server.stop()
        server.stop()

        assert read_response(connection)[0] == 503
        server.engine.gate.set()
        assert server.join(timeout_s=2)


def test_a_client_that_does_not_read_its_answers_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beicli.server.run.CLOSE_TIMEOUT_S", 0.1)
    options = ServerOptions(port=0, drain_timeout_s=0.05)
    with live_server(options=options) as server, connected(server) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            # More than the buffers on the way hold: the server stops reading.
            connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n" * 300_000)

        server.stop()

        assert server.join(timeout_s=3)


def test_an_answer_that_is_cut_between_its_head_and_its_body_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # More than the buffers on the way hold, so that the head itself waits for its reader.
    long_header = (b"x-long", b"x" * 32_000_000)
    has_started = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        has_started.set()
        await send({"type": "http.response.start", "status": 200, "headers": [long_header]})
        raise AssertionError("nobody reads the head")

    async def cut() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        connections = Connections.accept(app, listener)
        _, writer = await asyncio.open_connection(*listener.getsockname(), limit=1)
        writer.write(request(b"{}"))
        await has_started.wait()
        await asyncio.sleep(0.05)
        await connections.abort()
        writer.close()

    asyncio.run(cut())

    assert caplog.records == []


def test_garbage_is_answered_with_400_and_does_not_harm_the_server() -> None:
    with live_server() as server:
        with connected(server) as connection:
            connection.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert read_response(connection)[0] == 400
        assert httpx2.get(server.url + "/health").status_code == 200


def test_an_upgrade_that_cannot_be_read_ends_its_connection_with_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: A\r\n\r\n"
    with live_server() as server:
        with connected(server) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: test\r\n" + upgrade)
            while connection.recv(4096):
                pass
        assert httpx2.get(server.url + "/health").status_code == 200

    (record,) = caplog.records
    assert record.getMessage().startswith("ended a connection: Error: ")
    assert record.exc_info is None


def test_a_websocket_is_refused() -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

    with live_server() as server, connected(server) as connection:
        connection.sendall(
            b"GET /v1/embeddings HTTP/1.1\r\nhost: test\r\n" + upgrade + key + b"\r\n"
        )

        assert read_response(connection)[0] == 403


def test_an_engine_that_fails_its_warm_up_stops_the_server() -> None:
    closing_token = 3  # in every text, so every forward pass fails
    engine = FakeEngine(poison_id=closing_token)

    with pytest.raises(ServerStartError) as caught:
        LiveServer(engine, ServerOptions(port=0))

    assert caught.value.message == (
        "the engine does not warm up: the engine could not compute input 0: RuntimeError"
    )
    wait_until(lambda: engine.is_closed)


class LosesItsGpu(FakeEngine):
    """Computes its warm-up, and then has no GPU any more."""

    is_lost = False

    def forward(self, batch: Batch) -> EngineOutput:
        if self.is_lost:
            raise EngineLostError("the GPU is lost: cudaErrorIllegalAddress", hint="look at it")
        return super().forward(batch)


def test_a_server_whose_engine_is_lost_ends_with_a_code_that_asks_for_another() -> None:
    engine, answers = LosesItsGpu(), []

    async def serve_until_lost() -> None:
        loop = asyncio.get_running_loop()

        def ask(url: str) -> None:
            engine.is_lost = True
            answers.append(httpx2.post(f"{url}{EMBEDDINGS}", json={"input": "w1"}))

        lifecycle = Lifecycle(on_ready=lambda url: loop.run_in_executor(None, ask, url))
        options = ServerOptions(port=0)
        with bind_socket(options.host, 0) as listener, make_pipeline(engine) as pipeline:
            async with ends_if_lost(pipeline, lifecycle):
                await serve_pipeline(pipeline, options, lifecycle, listener=listener)

    with pytest.raises(EngineLostError, match="cudaErrorIllegalAddress") as raised:
        asyncio.run(serve_until_lost())

    assert raised.value.exit_code == os.EX_TEMPFAIL
    assert answers[0].status_code == 503


def test_a_taken_port_is_refused_with_the_ways_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServerStartError) as caught:
            bind_socket("127.0.0.1", port)

    assert caught.value.message == f"port {port} on 127.0.0.1 is already in use"
    assert caught.value.hint == (
        "stop what uses it, choose another `--port`, or let `--port 0` find a free one"
    )


def test_the_listener_is_known_for_tcp_so_that_answers_are_sent_at_once() -> None:
    with bind_socket("127.0.0.1", 0) as listener:
        # asyncio switches Nagle's algorithm off for sockets that say so, and for no others.
        assert listener.proto == socket.IPPROTO_TCP


def test_of_two_servers_that_bind_a_port_at_once_the_second_to_listen_is_refused() -> None:
    async def serve_second(listener: socket.socket) -> None:
        with make_pipeline(FakeEngine()) as pipeline:
            lifecycle = Lifecycle(on_ready=print)
            await serve_pipeline(pipeline, ServerOptions(), lifecycle, listener=listener)

    # Until somebody listens a second bind succeeds.
    with bind_socket("127.0.0.1", 0) as first, bind_socket(*first.getsockname()) as second:
        first.listen()
        with pytest.raises(ServerStartError, match="already in use"):
            asyncio.run(serve_second(second))


def test_an_engine_that_hangs_does_not_keep_the_process_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("beicli.server.loading.CLOSE_TIMEOUT_S", 0.05)
    engine = FakeEngine()

    async def run() -> None:
        pipeline = make_pipeline(engine)
        engine.gate.clear()
        asking = asyncio.create_task(pipeline.embed(["w1"]))
        await asyncio.to_thread(wait_until, lambda: pipeline.stalled_for_s() > 0)
        await close_pipeline(pipeline)
        asking.cancel()

    asyncio.run(run())

    assert "a forward pass did not end within 0.05 s" in caplog.text
    engine.gate.set()
    wait_until(lambda: engine.is_closed)


def test_a_bound_port_refuses_connections_until_somebody_listens() -> None:
    with bind_socket("127.0.0.1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no.such.host.invalid", "host `no.such.host.invalid` is not known: "),
        ("192.0.2.1", "192.0.2.1 is not an address of this machine"),
        ("a" * 300, f"host `{'a' * 300}` is not known: "),
    ],
)
def test_a_bad_host_is_refused_with_the_usual_ones(host: str, message: str) -> None:
    with pytest.raises(ServerStartError) as caught:
        bind_socket(host, 0)

    assert caught.value.message.startswith(message)
    assert "--host 127.0.0.1" in (caught.value.hint or "")


@pytest.mark.parametrize("port", [-1, 65536, 2**40])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ServerStartError) as caught:
        bind_socket("127.0.0.1", port)

    assert caught.value.message == f"{port} is not a port"
    assert caught.value.hint == "a port is between 1 and 65535; 0 takes a free one"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EACCES, "this user may not listen on port 80"),
        (errno.ENOBUFS, "cannot listen on 127.0.0.1 port 80: [Errno 105] no room"),
    ],
)
def test_what_the_kernel_says_of_a_port_is_explained(code: int, message: str) -> None:
    error = _explain_bind_error(OSError(code, "no room"), "127.0.0.1", 80)

    assert error.message == message


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_is_served_and_its_url_has_brackets() -> None:
    try:
        bind_socket("::1", 0).close()
    except ServerStartError:
        pytest.skip("this machine has no IPv6 loopback address")

    with live_server(options=ServerOptions(host="::1", port=0)) as server:
        assert server.url.startswith("http://[::1]:")
        assert httpx2.get(server.url + "/health").status_code == 200


def test_run_server_serves_an_engine_directory_until_sigterm(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "engine")
    answers: list[httpx2.Response] = []

    def use_and_stop(url: str) -> None:
        answers.append(httpx2.post(url + EMBEDDINGS, json={"input": ["w1", "w2"]}))
        answers.append(httpx2.get(url + "/metrics"))
        os.kill(os.getpid(), signal.SIGTERM)

    def on_ready(url: str) -> None:
        threading.Thread(target=use_and_stop, args=(url,)).start()

    run_server([artifact], ServerOptions(port=0), on_ready=on_ready)

    embeddings, metrics = answers
    assert len(embeddings.json()["data"]) == 2
    # The server's metrics hear of the engine's batches, the warm-up's included.
    assert "te_batch_next_tokens_sum 25.0" in metrics.text


@pytest.mark.parametrize(
    ("soft", "wanted", "possible"),
    [(-1, 16384, 16384), (65536, 16384, 16384), (1024, 16384, 896), (1024, 800, 800), (64, 10, 1)],
)
def test_no_more_connections_are_accepted_than_there_are_files_for(
    soft: int,
    wanted: int,
    possible: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))

    assert connections_with_files(wanted) == possible
    # Whoever gets less than was asked for hears of it.
    assert len(caplog.records) == (possible < wanted)


def test_run_server_makes_room_for_more_connections_than_a_shell_allows(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "engine")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found: list[int] = []

    def on_ready(_: str) -> None:
        found.append(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        signal.raise_signal(signal.SIGTERM)

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        run_server([artifact], ServerOptions(port=0), on_ready=on_ready)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert found[0] == (65536 if hard == resource.RLIM_INFINITY else min(65536, hard))
