import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.server.certificates import make_certificate, trusting
from tests.server.fakes import LiveServer, live_server, wait_until
from tests.server.test_run import EMBEDDINGS, HEAD, connected, is_closed, read_response, request

from beicli.cli.serve_options import check_tls_files
from beicli.errors import UsageError
from beicli.server.options import ServerOptions, TlsFiles
from beicli.server.tls import make_tls_context

BODY = {"input": "w1"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(files: TlsFiles) -> Iterator[LiveServer]:
    with live_server(options=ServerOptions(port=0, tls=files)) as server:
        yield server


def encrypted(connection: socket.socket, files: TlsFiles) -> ssl.SSLSocket:
    return trusting(files).wrap_socket(connection, server_hostname="127.0.0.1")


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_requests_are_answered_over_tls(server: LiveServer, files: TlsFiles, version: str) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    with httpx2.Client(verify=trusting(files), http2=version == "HTTP/2") as client:
        for _ in range(3):
            answer = client.post(server.url + EMBEDDINGS, json=BODY)

            assert (answer.status_code, answer.http_version) == (200, version)
            assert len(answer.json()["data"]) == 1


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_a_long_answer_arrives_whole(server: LiveServer, files: TlsFiles, version: str) -> None:
    texts = [f"w{number} " * 14 for number in range(128)]
    with httpx2.Client(verify=trusting(files), http2=version == "HTTP/2") as client:
        answer = client.post(f"{server.url}/embed_all", json={"inputs": texts})

    assert len(answer.content) > 100_000
    assert [len(rows) for rows in answer.json()] == [16] * 128


def test_a_client_that_does_not_know_the_certificate_refuses_it(server: LiveServer) -> None:
    with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
        httpx2.get(server.url + "/health")


def test_old_tls_and_what_http2_forbids_of_it_are_not_spoken(files: TlsFiles) -> None:
    context = make_tls_context(files)

    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert all("GCM" in name or "CHACHA20" in name for name in names)


def test_a_client_in_the_clear_is_cut_and_does_not_harm_the_server(
    server: LiveServer, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(server) as connection:
        connection.sendall(request(b'{"input": "w1"}'))
        answered = b"".join(iter(lambda: received(connection), b""))
        assert b"HTTP" not in answered

    answer = httpx2.get(server.url + "/health", verify=trusting(files))
    assert answer.status_code == 200
    assert caplog.records == []


def test_a_handshake_that_does_not_end_is_given_up(
    files: TlsFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("beicli.server.acceptor.TLS_HANDSHAKE_TIMEOUT_S", 0.1)
    with (
        live_server(options=ServerOptions(port=0, tls=files)) as server,
        connected(server) as connection,
    ):
        # The beginning of a greeting.
        connection.sendall(b"\x16\x03\x01\x02\x00")

        assert is_closed(connection)
    assert caplog.records == []


def test_silent_clients_give_their_places_back(
    files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beicli.server.acceptor.TLS_HANDSHAKE_TIMEOUT_S", 0.1)
    options = ServerOptions(port=0, tls=files, max_connections=1)
    with live_server(options=options) as server, connected(server):
        for _ in range(3):
            answer = httpx2.get(server.url + "/health", verify=trusting(files))
            assert answer.status_code == 200


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00", b"GET"])
def test_a_client_that_never_finishes_its_handshake_does_not_hold_up_a_stop(
    files: TlsFiles, sent: bytes
) -> None:
    with (
        live_server(options=ServerOptions(port=0, tls=files)) as server,
        connected(server) as connection,
    ):
        num_tasks = server.num_tasks()
        connection.sendall(sent)
        time.sleep(0.05)
        assert server.num_tasks() <= num_tasks + 1

        server.stop()

        assert server.join(timeout_s=2)
        assert is_closed(connection)


def test_an_idle_client_that_says_no_goodbye_does_not_hold_up_a_stop(
    files: TlsFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("beicli.server.acceptor.TLS_SHUTDOWN_TIMEOUT_S", 0.1)
    with (
        live_server(options=ServerOptions(port=0, tls=files)) as server,
        connected(server) as connection,
        encrypted(connection, files) as tls,
    ):
        tls.sendall(request(b'{"input": "w1"}'))
        assert read_response(tls)[0] == 200

        server.stop()

        assert server.join(timeout_s=2)
    assert caplog.records == []


def test_a_request_that_runs_at_a_stop_is_answered_over_tls(files: TlsFiles) -> None:
    with (
        live_server(options=ServerOptions(port=0, tls=files)) as server,
        connected(server) as connection,
        encrypted(connection, files) as tls,
    ):
        server.engine.gate.clear()
        tls.sendall(request(b'{"input": "w1"}'))
        wait_until(lambda: server.pipeline.stalled_for_s() > 0)

        server.stop()
        server.engine.gate.set()

        assert read_response(tls)[0] == 200


def test_clients_that_leave_at_any_point_leave_nothing_behind(
    server: LiveServer, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    post = request(b'{"input": ["w1", "w2"]}')
    num_tasks = server.num_tasks()
    for length in range(0, len(post) + 1, 20):
        with connected(server) as connection:
            tls = encrypted(connection, files)
            tls.sendall(post[:length])
            # Without a goodbye.
            os.close(tls.detach())

    wait_until(lambda: server.num_tasks() == num_tasks)

    assert caplog.records == []


def test_headers_that_do_not_end_are_given_up_over_tls_too(
    server: LiveServer, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beicli.server.connections.HEAD_TIMEOUT_S", 0.1)
    with connected(server) as connection, encrypted(connection, files) as tls:
        tls.sendall(HEAD)

        assert read_response(tls)[0] == 408


def test_options_without_tls_are_none() -> None:
    assert check_tls_files(None, None) is None


def test_both_files_make_a_server_of_https(files: TlsFiles) -> None:
    assert check_tls_files(files.certificate, files.key) == files


@pytest.mark.parametrize("given", ["certificate", "key"])
def test_one_file_without_the_other_is_refused(files: TlsFiles, given: str) -> None:
    certificate = files.certificate if given == "certificate" else None
    key = files.key if given == "key" else None

    with pytest.raises(UsageError, match=f"`--tls-{given}` is given without") as caught:
        check_tls_files(certificate, key)

    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(files: TlsFiles, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_tls_files(files.certificate, tmp_path / "none.pem")

    assert caught.value.message == f"`{tmp_path / 'none.pem'}` cannot be read: " + os.strerror(2)


def test_files_in_each_others_place_are_told(files: TlsFiles) -> None:
    with pytest.raises(UsageError, match=r"key\.pem` does not hold a certificate in PEM"):
        check_tls_files(files.key, files.certificate)


def test_the_key_of_another_certificate_is_refused(files: TlsFiles, tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other")

    with pytest.raises(UsageError, match="is not that of the certificate in"):
        check_tls_files(files.certificate, other.key)


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    locked = make_certificate(tmp_path / "locked", password=b"secret")

    with pytest.raises(UsageError) as caught:
        check_tls_files(locked.certificate, locked.key)

    assert "openssl pkey" in (caught.value.hint or "")


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_a_file_that_is_damaged_is_refused(tmp_path: Path, broken: str) -> None:
    files = make_certificate(tmp_path / "damaged")
    file: Path = getattr(files, broken)
    lines = file.read_text(encoding="ascii").splitlines()
    file.write_text("\n".join([lines[0], "AAAA", lines[-1], ""]), encoding="ascii")

    with pytest.raises(UsageError, match="cannot be used"):
        make_tls_context(files)
