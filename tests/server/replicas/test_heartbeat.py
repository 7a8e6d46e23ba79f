import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from contextlib import closing

import httpx2
import pytest
from tests.server.fakes import TIMEOUT_S, FakeEngine, make_pipeline, serve_pipeline

from beicli.errors import EngineError
from beicli.server.lifecycle import Lifecycle
from beicli.server.options import ServerOptions
from beicli.server.replicas import heartbeat
from beicli.server.replicas.heartbeat import ends_if_stalled
from beicli.server.run import bind_socket

Client = Callable[[str, Lifecycle], Coroutine[None, None, None]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "STALL_LIMIT_S", 0.1)
    monkeypatch.setattr(heartbeat, "CHECK_INTERVAL_S", 0.01)


async def serve(engine: FakeEngine, client: Client) -> None:
    """Serve until the server stops, and wait for its client."""
    started: list[asyncio.Task[None]] = []

    def on_ready(url: str) -> None:
        started.append(asyncio.create_task(client(url, lifecycle)))

    lifecycle = Lifecycle(on_ready=on_ready)
    with closing(bind_socket("127.0.0.1", 0)) as listener, make_pipeline(engine) as pipeline:
        try:
            async with asyncio.timeout(TIMEOUT_S), ends_if_stalled(pipeline, lifecycle):
                await serve_pipeline(pipeline, ServerOptions(), lifecycle, listener=listener)
        finally:
            engine.gate.set()
            await asyncio.gather(*started)


async def embed(url: str) -> int:
    async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client:
        answer = await client.post(url + "/v1/embeddings", json={"input": "w1"})
    return answer.status_code


def test_a_replica_whose_engine_hangs_tells_who_waits_and_ends() -> None:
    engine = FakeEngine()
    statuses: list[int] = []

    async def client(url: str, _: Lifecycle) -> None:
        engine.gate.clear()
        statuses.append(await embed(url))

    with pytest.raises(EngineError, match=r"a forward pass took over 0\.1 s"):
        asyncio.run(serve(engine, client))

    assert statuses == [503]


class Stalled:
    """An engine whose forward pass began at the time zero."""

    lost = None
    now_s = 0.0
    has_died = False

    def stalled_for_s(self) -> float:
        return math.inf if self.has_died else self.now_s


@pytest.mark.parametrize("has_died", [False, True])
def test_a_pause_of_the_process_is_not_taken_for_a_pass_that_hangs(
    monkeypatch: pytest.MonkeyPatch, *, has_died: bool
) -> None:
    limit_s = 60.0
    monkeypatch.setattr(heartbeat, "STALL_LIMIT_S", limit_s)
    engine = Stalled()
    monkeypatch.setattr(time, "monotonic", lambda: engine.now_s)
    watch = heartbeat.Heartbeat(engine)
    assert not watch.is_over()

    engine.now_s, engine.has_died = 10 * limit_s, has_died
    assert watch.is_over() == has_died

    while not watch.is_over():
        engine.now_s += 1.0
    assert engine.now_s == 10 * limit_s + (0.0 if has_died else limit_s)


def test_a_replica_that_nobody_asks_for_longer_goes_on() -> None:
    statuses: list[int] = []

    async def client(url: str, lifecycle: Lifecycle) -> None:
        await asyncio.sleep(3 * heartbeat.STALL_LIMIT_S)
        statuses.append(await embed(url))
        lifecycle.stop()

    asyncio.run(serve(FakeEngine(), client))

    assert statuses == [200]
