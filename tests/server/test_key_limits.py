import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.fakes import TIMEOUT_S, FakeEngine, ask_all, make_pipeline

from beicli.server.app import create_app
from beicli.server.errors import KeyLimitError
from beicli.server.key_limits import KeyGate, TokenBucket
from beicli.server.metrics import ServerMetrics
from beicli.server.options import KeyLimits, ServerOptions

BODY = {"input": "w1"}
KEYS = ("first-key", "second-key")
rates = st.floats(0.01, 1000)
bursts = st.integers(1, 50)
pauses = st.lists(st.floats(0, 30), max_size=60)


def locked(limits: KeyLimits) -> ServerOptions:
    return ServerOptions(api_keys=KEYS, key_limits=limits)


def as_key(number: int, scheme: str = "Bearer") -> dict[str, str]:
    return {"authorization": f"{scheme} {KEYS[number]}"}


def taken_at(bucket: TokenBucket, pauses: list[float]) -> Iterator[float]:
    now = 0.0
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0:
            yield now


@given(rates, bursts, pauses)
def test_in_no_stretch_of_time_more_is_let_in_than_rate_and_burst_allow(
    rate: float, burst: int, pauses: list[float]
) -> None:
    times = list(taken_at(TokenBucket(requests_per_s=rate, burst=burst), pauses))

    for first, start in enumerate(times):
        for last in range(first, len(times)):
            allowed = burst + rate * (times[last] - start)
            assert last - first + 1 <= allowed + 0.01


@given(rates, bursts, pauses)
def test_whoever_waits_as_long_as_was_said_is_let_in_and_no_sooner(
    rate: float, burst: int, pauses: list[float]
) -> None:
    bucket, now = TokenBucket(requests_per_s=rate, burst=burst), 1_000_000.0
    for pause in pauses:
        now += pause
        wait_s = bucket.take(now)
        if wait_s > 0:
            assert wait_s <= 1 / rate + 1e-6
            assert bucket.take(now + 0.5 * wait_s) > 0 or wait_s < 1e-5
            now += wait_s
            assert bucket.take(now) == 0


@given(rates, bursts)
def test_after_a_pause_exactly_the_burst_is_let_in_at_once(rate: float, burst: int) -> None:
    bucket = TokenBucket(requests_per_s=rate, burst=burst)
    bucket.take(0.0)
    now = 1.0 + burst / rate

    answers = [bucket.take(now) for _ in range(burst + 1)]

    assert [wait_s == 0 for wait_s in answers] == [True] * burst + [False]


def test_whoever_keeps_to_the_rate_is_never_sent_away() -> None:
    bucket = TokenBucket(requests_per_s=3, burst=1)

    assert {bucket.take(number / 3) for number in range(10_000)} == {0.0}


def test_a_key_with_as_many_requests_as_it_may_have_gets_no_further_one() -> None:
    gate = KeyGate(KeyLimits(max_requests=2), clock=lambda: 0.0)
    with ExitStack() as inside:
        inside.enter_context(gate)
        inside.enter_context(gate)
        with pytest.raises(KeyLimitError) as caught, gate:
            raise AssertionError("it was let in")

    assert caught.value.message == "this API key may have 2 requests running at once"
    assert caught.value.retry_after_s == 1
    with gate, gate:
        pass


def test_a_request_that_fails_gives_its_place_back() -> None:
    gate = KeyGate(KeyLimits(max_requests=1), clock=lambda: 0.0)

    for _ in range(3):
        with pytest.raises(ZeroDivisionError), gate:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("rate", "retry_after_s", "when"), [(20, 1, "a second"), (0.1, 10, "10 seconds")]
)
def test_a_key_that_asks_too_often_hears_when_to_come_back(
    rate: float, retry_after_s: int, when: str
) -> None:
    gate = KeyGate(KeyLimits(requests_per_s=rate, burst=1), clock=lambda: 0.0)
    with gate:
        pass

    with pytest.raises(KeyLimitError) as caught, gate:
        raise AssertionError("it was let in")

    assert caught.value.retry_after_s == retry_after_s
    assert caught.value.message == (
        f"this API key may ask {rate:g} times a second, and 1 at once after a pause"
    )
    assert caught.value.hint is not None
    assert f"retry after {when};" in caught.value.hint


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embed"])
def test_the_limit_is_said_in_the_shape_of_the_route_and_names_no_key(path: str) -> None:
    body = {"input": "w1", "inputs": "w1"}
    request = ("POST", path, {"json": body, "headers": as_key(0)})

    first, second = ask_all([request] * 2, options=locked(KeyLimits(requests_per_s=0.001)))

    assert (first.status_code, second.status_code) == (200, 429)
    assert second.headers["retry-after"] == "1000"
    assert "key may ask 0.001 times a second" in second.text
    assert "first-key" not in second.text
    answer = second.json()
    if path == "/embed":
        assert answer["error_type"] == "Overloaded"
    else:
        assert answer["error"]["code"] == "rate_limit_exceeded"


def test_keys_have_limits_of_their_own_by_whatever_scheme_they_come() -> None:
    path = "/v1/embeddings"
    requests = [
        ("POST", path, {"json": BODY, "headers": as_key(0)}),
        ("POST", path, {"json": BODY, "headers": as_key(1, "Api-Key")}),
        ("POST", path, {"json": BODY, "headers": as_key(0, "Api-Key")}),
        ("POST", path, {"json": BODY, "headers": as_key(1)}),
    ]

    answers = ask_all(requests, options=locked(KeyLimits(requests_per_s=0.001)))

    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]


def test_only_routes_that_ask_the_model_count() -> None:
    requests = [("GET", "/info", {"headers": as_key(0)})] * 5
    requests += [("POST", "/none", {"headers": as_key(0), "json": BODY})]
    requests += [("POST", "/v1/embeddings", {"headers": as_key(0), "json": BODY})]

    answers = ask_all(requests, options=locked(KeyLimits(requests_per_s=0.001, max_requests=1)))

    assert [answer.status_code for answer in answers] == [200] * 5 + [404, 200]


def test_a_refusal_is_counted_by_its_reason_and_without_the_key() -> None:
    requests = [("POST", "/v1/embeddings", {"headers": as_key(0), "json": BODY})] * 3
    requests += [("GET", "/metrics", {})]

    metrics = ask_all(requests, options=locked(KeyLimits(requests_per_s=0.001)))[-1].text

    assert 'te_request_failure{err="key_limit"} 2.0' in metrics
    assert 'bei_failed_requests_total{reason="key_limit"} 2.0' in metrics
    assert "first" not in metrics


def test_requests_of_one_key_at_once_leave_room_for_the_other() -> None:
    engine = FakeEngine()

    async def run() -> list[int]:
        options = locked(KeyLimits(max_requests=2))
        metrics = ServerMetrics()
        with make_pipeline(engine, metrics=metrics) as pipeline:
            app = create_app(pipeline, options, metrics=metrics)
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

                async def post(number: int) -> int:
                    answer = await client.post(
                        "/embed", json={"inputs": "w1"}, headers=as_key(number)
                    )
                    return answer.status_code

                async def are_inside(num_requests: int) -> None:
                    line = f"bei_open_requests {num_requests}.0\n".encode()
                    async with asyncio.timeout(TIMEOUT_S):
                        while line not in metrics.render():  # noqa: ASYNC110 - it sets no event
                            await asyncio.sleep(0.002)

                engine.gate.clear()
                running = [asyncio.create_task(post(0)) for _ in range(2)]
                await are_inside(2)
                refused = await post(0)
                running.append(asyncio.create_task(post(1)))
                await are_inside(3)
                engine.gate.set()
                return [refused, *await asyncio.gather(*running), await post(0)]

    assert asyncio.run(run()) == [429, 200, 200, 200, 200]
