import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send
from tests.server.fakes import FakeEngine, ask, make_pipeline

from beicli.errors import OverloadedError, PayloadTooLargeError, UnhealthyError
from beicli.scheduler.admission import QueueState
from beicli.scheduler.terms import Priority
from beicli.server.app import create_app
from beicli.server.errors import BodyTimeoutError, ClientLeftError, error_response
from beicli.server.exchange import Admission, DisconnectWatch, FinishRequestBody, read_body
from beicli.server.options import ServerOptions

DISCONNECT: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def replay(*messages: Message) -> Receive:
    """A `receive` that hands out `messages` and then waits for ever."""
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def read(receive: Receive, headers: dict[bytes, bytes] | None = None, limit: int = 10) -> bytes:
    return asyncio.run(read_body(headers or {}, receive, max_bytes=limit))


def test_a_body_is_joined_from_its_parts() -> None:
    assert read(replay(part(b"ab", more=True), part(b"cd", more=True), part(b"", more=False))) == (
        b"abcd"
    )


def test_a_body_of_exactly_the_limit_is_read() -> None:
    assert read(replay(part(b"0123456789", more=False)), {b"content-length": b"10"}) == (
        b"0123456789"
    )


def test_an_announced_body_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        read(replay(), {b"content-length": b"11"})

    assert caught.value.hint == (
        "11 bytes were announced; a body may have 10 bytes: send fewer or shorter inputs"
    )


def test_an_unannounced_body_is_refused_as_soon_as_it_passes_the_limit() -> None:
    with pytest.raises(PayloadTooLargeError):
        read(replay(part(b"012345", more=True), part(b"678901", more=True)))


def test_a_client_that_leaves_while_sending_is_noticed() -> None:
    with pytest.raises(ClientLeftError):
        read(replay(part(b"ab", more=True), DISCONNECT))


def test_a_body_that_stops_arriving_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beicli.server.exchange.BODY_TIMEOUT_S", 0.01)

    with pytest.raises(BodyTimeoutError) as caught:
        read(replay(part(b"ab", more=True)))

    assert caught.value.http_status == 408
    assert caught.value.hint == "2 bytes arrived; send fewer inputs in a request"


def trickle(num_parts: int, size: int, *, pause_s: float) -> Receive:
    """A body that comes in parts, one after each pause."""
    parts = [part(b"x" * size, more=True)] * (num_parts - 1) + [part(b"x" * size, more=False)]
    waiting = iter(parts)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        return next(waiting)

    return receive


def test_a_body_of_a_byte_now_and_then_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beicli.server.exchange.BODY_GRACE_S", 0.05)

    with pytest.raises(BodyTimeoutError) as caught:
        read(trickle(100, 1, pause_s=0.01))

    assert "the request body did not arrive within 0.0" in caught.value.message


def test_a_slow_body_that_keeps_coming_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beicli.server.exchange.BODY_GRACE_S", 0.3)

    # Ten times as fast as it has to be.
    assert len(read(trickle(40, 100, pause_s=0.01), limit=4000)) == 4000


def test_a_body_that_keeps_coming_for_too_long_is_given_up_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beicli.server.exchange.BODY_GRACE_S", 0.05)
    monkeypatch.setattr("beicli.server.exchange.BODY_TIMEOUT_S", 0.1)

    with pytest.raises(BodyTimeoutError):
        read(trickle(100, 1000, pause_s=0.01), limit=1_000_000)


def test_the_watch_cancels_the_work_when_the_client_leaves() -> None:
    async def run() -> tuple[list[str], int]:
        events: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                events.append("cancelled")
                raise

        with pytest.raises(ClientLeftError):
            async with DisconnectWatch(replay(part(b"", more=False), DISCONNECT)):
                await work()
        await asyncio.sleep(0)
        return events, len(asyncio.all_tasks())

    # Only the test's own task is left, and it can go on awaiting.
    assert asyncio.run(run()) == (["cancelled"], 1)


def test_the_watch_leaves_no_task_behind_when_the_client_stays() -> None:
    async def run() -> int:
        async with DisconnectWatch(replay()):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_a_cancellation_from_elsewhere_passes_through_the_watch() -> None:
    async def run() -> None:
        async with asyncio.timeout(0.01), DisconnectWatch(replay()):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_admission_refuses_the_one_too_many_and_forgets_who_left() -> None:
    async def run() -> None:
        admission = Admission(1)
        left = asyncio.Event()

        async def stay() -> None:
            with admission:
                await left.wait()

        first = asyncio.create_task(stay())
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="Model is overloaded"), admission:
            pass
        left.set()
        await first
        with admission:
            assert admission.num_inside == 1

    asyncio.run(run())


def test_abort_ends_everyone_inside_and_lets_nobody_in() -> None:
    async def run() -> None:
        admission = Admission(10)

        async def stay() -> None:
            with admission:
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(stay()) for _ in range(3)]
        await asyncio.sleep(0)
        admission.abort()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [UnhealthyError] * 3
        with pytest.raises(UnhealthyError), admission:
            pass
        assert admission.draining

    asyncio.run(run())


@pytest.mark.parametrize(
    ("wait_s", "retry_after"),
    [(None, 1), (0.0, 1), (0.2, 1), (1.2, 2), (7.0, 7), (1000.0, 60)],
)
def test_who_is_refused_hears_when_to_come_back(wait_s: float | None, retry_after: int) -> None:
    admission = Admission(0)
    queue = QueueState(num_sequences=5, num_tokens=70, priority=Priority.BULK, wait_s=wait_s)
    admission.queue_state = lambda: queue

    with pytest.raises(OverloadedError) as caught, admission:
        pass

    when = "a second" if retry_after == 1 else f"{retry_after} seconds"
    assert caught.value.hint == f"0 requests are being served; retry after {when}"
    response = error_response(caught.value, path="/embed")
    assert response.headers["retry-after"] == str(retry_after)
    shown = json.loads(bytes(response.body))["queue"]
    wait = {} if wait_s is None else {"estimated_wait_ms": round(wait_s * 1000)}
    assert shown == {"waiting_inputs": 5, "waiting_tokens": 70, **wait}


def spelled(number: int) -> str:
    return " ".join(f"w{digit}" for digit in str(number))


@pytest.mark.parametrize(
    ("options", "limit", "num_inputs"),
    [(ServerOptions(max_concurrent_requests=2), 2, 100), (ServerOptions(), 2048, 1)],
    ids=["configured", "default"],
)
def test_a_request_too_many_gets_429_whole_however_few_its_inputs(
    options: ServerOptions, limit: int, num_inputs: int
) -> None:
    async def run() -> list[httpx2.Response]:
        engine = FakeEngine()
        with make_pipeline(engine) as pipeline:
            transport = httpx2.ASGITransport(create_app(pipeline, options))
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                engine.gate.clear()
                # No two alike: equal ones would wait as one.
                numbers = iter(range(limit * num_inputs))
                bodies = [
                    {"input": [spelled(next(numbers)) for _ in range(num_inputs)]}
                    for _ in range(limit)
                ]
                served = [
                    asyncio.create_task(client.post("/v1/embeddings", json=body)) for body in bodies
                ]
                while pipeline.num_waiting < 100:  # noqa: ASYNC110 - the queue announces nothing
                    await asyncio.sleep(0.001)
                refused = await client.post("/v1/embeddings", json={"input": "w1"})
                health = await client.get("/health")
                engine.gate.set()
                return [*await asyncio.gather(*served), refused, health]

    *served, refused, health = asyncio.run(run())

    assert len(served) == limit
    assert {response.status_code for response in (*served, health)} == {200}
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    error = refused.json()["error"]
    assert error.pop("queue")["waiting_inputs"] >= 100
    assert error == {
        "message": "Model is overloaded",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
        "hint": f"{limit} requests are being served; retry after a second",
    }


def exchange(receive: Receive, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> list[str]:
    """Run `app` behind FinishRequestBody; what was sent and received, in order."""
    events: list[str] = []

    async def logged_receive() -> Message:
        message = await receive()
        events.append(f"read {message.get('body', message['type'])!r}")
        return message

    async def send(message: Message) -> None:
        is_last = "last" if not message.get("more_body") else "more"
        events.append(f"sent {message.get('body')!r} {is_last}" if "body" in message else "start")

    asyncio.run(FinishRequestBody(app)({"type": "http"}, logged_receive, send))
    return events


async def answer_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


def test_an_early_answer_is_sent_whole_before_the_rest_of_the_body_is_read() -> None:
    events = exchange(replay(part(b"a", more=True), part(b"b", more=False)), answer_at_once)

    assert events == ["start", "sent b'no' more", "read b'a'", "read b'b'", "sent b'' last"]


def test_reading_the_rest_ends_when_the_client_leaves() -> None:
    events = exchange(replay(part(b"a", more=True), DISCONNECT), answer_at_once)

    assert events[-2:] == ["read 'http.disconnect'", "sent b'' last"]


def test_reading_the_rest_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beicli.server.exchange.LINGER_S", 0.01)

    events = exchange(replay(part(b"a", more=True)), answer_at_once)

    assert events[-2:] == ["read b'a'", "sent b'' last"]


def test_an_answer_after_the_whole_body_is_passed_on_as_it_is() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer_at_once(scope, receive, send)

    events = exchange(replay(part(b"a", more=False)), app)

    assert events == ["read b'a'", "start", "sent b'no' last"]


def test_a_lower_body_limit_is_kept_by_the_route() -> None:
    options = ServerOptions(max_body_bytes=18)

    fits = ask("POST", "/v1/embeddings", options=options, json={"input": "w1 w2"})
    refused = ask("POST", "/v1/embeddings", options=options, json={"input": "w1 w2 w3"})

    assert (fits.status_code, refused.status_code) == (200, 413)
