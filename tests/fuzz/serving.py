"""The server as a function of bytes: of a request's body, of its headers, or of all of it."""

import asyncio
import json
import logging
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.types import Message
from tests.fuzz.texts import HTTP_SEEDS
from tests.server.fakes import TIMEOUT_S, FakeEngine, live_server, make_pipeline

from beicli.model.spec import Task
from beicli.server.app import create_app
from beicli.server.options import ServerOptions

Headers = Sequence[tuple[bytes, bytes]]

HEADER_NAMES = (
    b"accept",
    b"accept-encoding",
    b"content-type",
    b"content-encoding",
    b"content-length",
    b"x-request-id",
    b"authorization",
    b"x-bei-return-input-tokens",
)
# Time for an answer to what was tampered with: most of it is no whole request, and gets none.
PATIENCE_S = 0.02
_TASKS = {
    "/embed_sparse": Task.SPARSE_EMBEDDING,
    "/rerank": Task.RERANKING,
    "/v1/rerank": Task.RERANKING,
    "/v2/rerank": Task.RERANKING,
    "/predict": Task.CLASSIFICATION,
    "/predict_tokens": Task.TOKEN_CLASSIFICATION,
}
_JSON = ((b"content-type", b"application/json"),)


class _Applications:
    """An application for every task, on one event loop, without a network."""

    def __init__(self, stack: ExitStack, *, api_keys: tuple[str, ...] = ()) -> None:
        self._runner = stack.enter_context(asyncio.Runner())
        options = ServerOptions(api_keys=api_keys, max_body_bytes=2**20)

        async def create(task: Task) -> Starlette:
            return create_app(stack.enter_context(make_pipeline(FakeEngine(task))), options)

        self._apps = {task: self._runner.run(create(task)) for task in Task}

    def ask(self, path: str, headers: Headers, body: bytes) -> bool:
        """Send one request and return whether it was answered, not refused.

        A bug, or an answer that is none, raises AssertionError.
        """
        app = self._apps[_TASKS.get(path, Task.EMBEDDING)]
        status, content_type, content = self._runner.run(_call(app, path, headers, body))
        assert 200 <= status < 600
        assert status != HTTPStatus.INTERNAL_SERVER_ERROR, content
        if content_type == b"application/json" and status != HTTPStatus.OK:
            assert "error" in json.loads(content)
        return status == HTTPStatus.OK


async def _call(
    app: Starlette, path: str, headers: Headers, body: bytes
) -> tuple[int, bytes, bytes]:
    """Speak ASGI for a client that sends its body at once and stays; return its answer."""
    coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not coming:
            await asyncio.Event().wait()
        return coming.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "server": ("test", 80),
        "client": ("test", 1),
    }
    async with asyncio.timeout(TIMEOUT_S):
        await app(scope, receive, send)
    answer = dict(sent[0]["headers"])
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], answer.get(b"content-type", b""), content


@contextmanager
def open_requests() -> Iterator[Callable[[bytes], bool]]:
    """Read inputs as an address in the first line, and a body."""
    with ExitStack() as stack:
        applications = _Applications(stack)

        def read(data: bytes) -> bool:
            path, _, body = data.partition(b"\n")
            return applications.ask("/" + path.decode("utf-8", "replace").lstrip("/"), _JSON, body)

        yield read


@contextmanager
def open_headers() -> Iterator[Callable[[bytes], bool]]:
    """Read inputs as a header in every line."""
    with ExitStack() as stack:
        applications = _Applications(stack, api_keys=("secret",))

        def read(data: bytes) -> bool:
            headers = list(zip(HEADER_NAMES, data.split(b"\n"), strict=False))
            body = json.dumps({"input": ["w1"] * 100}).encode()
            applications.ask("/v1/embeddings", headers, body)
            # And past the door.
            others = [header for header in headers if header[0] != b"authorization"]
            authorized = [*others, (b"authorization", b"Bearer secret")]
            return applications.ask("/v1/embeddings", authorized, body)

        yield read


class _Errors(logging.Handler):
    """Keeps what is logged as an error: bugs end there, not at a client."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


@contextmanager
def open_http() -> Iterator[Callable[[bytes], bool]]:
    """Read inputs as all that a client sends on a connection."""
    # What is well-formed is answered, however slow the machine is.
    well_formed = frozenset(HTTP_SEEDS)
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        with live_server() as server:

            def read(data: bytes) -> bool:
                address = ("127.0.0.1", server.port)
                answer = b""
                # The server may have had enough, which is its right.
                with (
                    socket.create_connection(address, timeout=TIMEOUT_S) as connection,
                    suppress(ConnectionError),
                ):
                    connection.sendall(data)
                    # A client that closes its side has left, and its request is given up.
                    patience_s = TIMEOUT_S if data in well_formed else PATIENCE_S
                    select.select([connection], [], [], patience_s)
                    connection.shutdown(socket.SHUT_WR)
                    while part := connection.recv(65536):
                        answer += part
                assert errors.said == [], errors.said[-1]
                return answer != b""

            yield read
    finally:
        logging.getLogger().removeHandler(errors)
