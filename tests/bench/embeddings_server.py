"""A small embeddings server on a free loopback port, with behaviours to measure.

It answers from a thread with an event loop of its own, over real sockets.
"""

import asyncio
import base64
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

DIMENSIONS = 8

# Given the request's JSON and its number, from 0.
Behaviour = Callable[[dict[str, Any], int], Awaitable[web.Response]]


@dataclass
class EmbeddingsServer:
    """Where it listens, and what it saw."""

    url: str
    stop: Callable[[], None] = lambda: None
    payloads: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    metrics_page: str | None = None
    texts_in_flight: list[str] = field(default_factory=list)
    max_requests_in_flight: int = 0
    saw_a_text_twice_at_once: bool = False


def embeddings(payload: dict[str, Any]) -> dict[str, Any]:
    length = payload.get("dimensions") or DIMENSIONS
    vector: list[float] | str = [0.5] * length
    if payload.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{length}f", *vector)).decode()
    texts = payload["input"]
    num_tokens = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": vector, "index": index}
            for index in range(len(texts))
        ],
        "model": "fake-model",
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def json_response(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, headers={"content-type": "application/json"}
    )


async def good(payload: dict[str, Any], _number: int) -> web.Response:
    return json_response(embeddings(payload))


async def slow(payload: dict[str, Any], _number: int) -> web.Response:
    await asyncio.sleep(0.05)
    return json_response(embeddings(payload))


async def overloaded_every_third(payload: dict[str, Any], number: int) -> web.Response:
    if number % 3 == 2:
        error = {"error": {"message": "Model is overloaded", "type": "Overloaded"}}
        return json_response(error, status=429)
    return json_response(embeddings(payload))


async def always_overloaded(_payload: dict[str, Any], _number: int) -> web.Response:
    return json_response({"error": "Model is overloaded", "error_type": "Overloaded"}, status=429)


async def overloaded_with_markup(payload: dict[str, Any], number: int) -> web.Response:
    if number % 3 == 2:
        return json_response({"error": "[red]busy[/red] [/]"}, status=429)
    return json_response(embeddings(payload))


async def one_item_short(payload: dict[str, Any], _number: int) -> web.Response:
    answer = embeddings(payload)
    answer["data"].pop()
    return json_response(answer)


async def one_item_short_after_ten(payload: dict[str, Any], number: int) -> web.Response:
    answer = embeddings(payload)
    if number >= 10:
        answer["data"].pop()
    return json_response(answer)


async def without_usage(payload: dict[str, Any], _number: int) -> web.Response:
    answer = embeddings(payload)
    del answer["usage"]
    return json_response(answer)


async def not_json(_payload: dict[str, Any], _number: int) -> web.Response:
    return web.Response(text="<html>welcome</html>")


async def floats_only(payload: dict[str, Any], _number: int) -> web.Response:
    return json_response(embeddings({**payload, "encoding_format": "float"}))


async def stuck(payload: dict[str, Any], _number: int) -> web.Response:
    await asyncio.sleep(10)
    return json_response(embeddings(payload))


async def stuck_after_the_first(payload: dict[str, Any], number: int) -> web.Response:
    return await (good if number == 0 else stuck)(payload, number)


async def reranked(payload: dict[str, Any], _number: int) -> web.Response:
    """Best first, and the longest text is the best."""
    scores = [len(text) / 10_000 for text in payload["texts"]]
    ranks = sorted(enumerate(scores), key=lambda item: -item[1])
    answer = json_response([{"index": index, "score": score} for index, score in ranks])
    answer.headers["x-compute-tokens"] = str(10 * len(scores))
    return answer


async def predicted(payload: dict[str, Any], _number: int) -> web.Response:
    labels = [{"score": 0.75, "label": "good"}, {"score": 0.25, "label": "bad"}]
    return json_response([labels for _ in payload["inputs"]])


async def with_entities(payload: dict[str, Any], _number: int) -> web.Response:
    found = {"token": "x", "token_id": 7, "start": 0, "end": 2, "results": {"PER": 0.9}}
    return json_response([[found] if len(text) > 100 else [] for (text,) in payload["inputs"]])


@contextmanager
def serve(behaviour: Behaviour, *, path: str = "/v1/embeddings") -> Iterator[EmbeddingsServer]:
    """Serve until the block is left."""
    loop = asyncio.new_event_loop()
    runner, server = loop.run_until_complete(_start(behaviour, path))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=5)

    server.stop = stop
    try:
        yield server
    finally:
        stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        loop.close()


async def _start(behaviour: Behaviour, path: str) -> tuple[web.AppRunner, EmbeddingsServer]:
    server = EmbeddingsServer(url="")

    async def tell_metrics(_request: web.Request) -> web.Response:
        if server.metrics_page is None:
            raise web.HTTPNotFound
        return web.Response(text=server.metrics_page)

    async def handle(request: web.Request) -> web.Response:
        payload = orjson.loads(await request.read())
        texts = _texts_of(payload)
        number = len(server.payloads)
        server.payloads.append(payload)
        server.headers.append(dict(request.headers))
        server.connections.add(id(request.transport))
        server.saw_a_text_twice_at_once |= not set(texts).isdisjoint(server.texts_in_flight)
        server.texts_in_flight.extend(texts)
        in_flight = len(server.texts_in_flight) // len(texts)
        server.max_requests_in_flight = max(server.max_requests_in_flight, in_flight)
        try:
            return await behaviour(payload, number)
        finally:
            for text in texts:
                server.texts_in_flight.remove(text)

    app = web.Application(client_max_size=2**25)
    app.router.add_post(path, handle)
    app.router.add_get("/metrics", tell_metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    return runner, server


def _texts_of(payload: dict[str, Any]) -> list[str]:
    if "inputs" in payload:
        return [text for (text,) in payload["inputs"]]
    texts: list[str] = payload["input" if "input" in payload else "texts"]
    return texts
