"""A server that answers what a function says, and an embedding server in OpenAI's form."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from tests.loopback import listening
from tests.validation.endpoint.proxy import Listener


@dataclass(slots=True)
class Asked:
    """A request. body: the JSON value sent, None if it was none."""

    method: str
    path: str
    body: Any
    authorization: str | None


@dataclass(slots=True)
class Said:
    """An answer; a value that is no bytes is sent as JSON."""

    status: int
    value: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[Asked], Said]
NOT_FOUND = Said(404, b"<html>Not Found</html>")


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                body = json.loads(content)
            except ValueError:
                body = None
            asked = Asked(self.command, self.path, body, self.headers.get("Authorization"))
            said = script(asked)
            value = said.value
            answer = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(said.status)
            for name, text in said.headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

    server = Listener(("127.0.0.1", 0), Handler)
    with listening(server) as address:
        yield address


def vector_of(text: object, dimensions: int) -> list[float]:
    numbers = np.random.default_rng(list(str(text).encode())).standard_normal(16)[:dimensions]
    return (numbers / np.linalg.norm(numbers)).tolist()


def refusal(status: int, message: str) -> Said:
    return Said(status, {"error": {"message": message, "type": "invalid_request_error"}})


@dataclass(slots=True)
class OpenAIServer:
    """Embeddings at `route`, for the model `model` only."""

    model: str = "m"
    route: str = "/v1/embeddings"
    models: tuple[str, ...] = ("m",)
    has_health: bool = True

    def __call__(self, asked: Asked) -> Said:
        if asked.method == "GET":
            if asked.path.endswith("/models"):
                return Said(200, {"data": [{"id": name} for name in self.models]})
            return Said(200) if asked.path == "/health" and self.has_health else NOT_FOUND
        if asked.path != self.route:
            return NOT_FOUND
        return self.embed(asked.body)

    def embed(self, body: Any) -> Said:
        if not isinstance(body, dict) or not body.get("input"):
            return refusal(400, "input required")
        if body.get("model") != self.model:
            return refusal(404, f"The model `{body.get('model')}` does not exist")
        dimensions = body.get("dimensions", 16)
        encoding = body.get("encoding_format", "float")
        if not 0 < dimensions <= 16 or encoding not in {"float", "base64"}:
            return refusal(400, "no such value")
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = [vector_of(text, dimensions) for text in texts]
        is_base64 = encoding == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
                if is_base64
                else vector,
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        return Said(200, {"object": "list", "data": data, "model": self.model, "usage": usage})
