"""A server between a client and a real server, which changes what it does not like."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
from tests.loopback import listening


@dataclass(slots=True)
class Exchange:
    """One request and its answer. body: the JSON value sent, None if it was none."""

    path: str
    body: Any
    status: int
    value: Any


Change = Callable[[Exchange], None]


class Listener(ThreadingHTTPServer):
    """It has room for requests that come together, and waits for no client to leave."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about scripts that hang up."""


@contextmanager
def proxy(url: str, change: Change) -> Iterator[str]:
    """Pass everything on to `url`, and let `change` spoil each JSON answer."""

    # One for all: each new one reads the certificates of the machine.
    client = httpx2.Client(timeout=20)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave together: two small packets wait for each other.
        wbufsize = -1

        def do_GET(self) -> None:
            self._forward("GET", None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._forward("POST", self.rfile.read(length))

        def _forward(self, method: str, content: bytes | None) -> None:
            headers = {"content-type": "application/json"} if content is not None else {}
            if "Authorization" in self.headers:
                headers["authorization"] = self.headers["Authorization"]
            answer = client.request(method, url + self.path, content=content, headers=headers)
            exchange = Exchange(
                self.path, _value(content or b""), answer.status_code, _value(answer.content)
            )
            change(exchange)
            is_json = exchange.value is not None
            body = json.dumps(exchange.value).encode() if is_json else answer.content
            self.send_response(exchange.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

    server = Listener(("127.0.0.1", 0), Handler)
    with client, listening(server) as address:
        yield address


def _value(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
