import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.fakes import FakeEngine, ask, live_server, wait_until

from beicli.errors import DeadlineExceededError, RequestError
from beicli.scheduler.terms import NO_TERMS, Priority, Terms, current_terms
from beicli.server.terms import read_terms, within

EMBEDDINGS = "/v1/embeddings"
MINUTE_MS = 60_000


def remaining_s(headers: dict[bytes, bytes]) -> float:
    return read_terms(headers).deadline - time.monotonic()


def test_a_request_that_says_nothing_has_no_terms() -> None:
    assert read_terms({b"accept": b"*/*"}) is NO_TERMS


@pytest.mark.parametrize("name", [b"request-timeout-ms", b"x-timeout-ms"])
def test_a_timeout_counts_from_now(name: bytes) -> None:
    assert remaining_s({name: b"1500"}) == pytest.approx(1.5, abs=0.2)


def test_a_deadline_is_a_time_of_day() -> None:
    deadline_ms = int((time.time() + 3) * 1000)

    assert remaining_s({b"request-deadline-ms": b"%d" % deadline_ms}) == pytest.approx(3, abs=0.2)


def test_the_soonest_of_several_holds() -> None:
    headers = {
        b"request-timeout-ms": b"9000",
        b"x-timeout-ms": b"2000.5",
        b"request-deadline-ms": b"%d" % int((time.time() + 60) * 1000),
    }

    assert remaining_s(headers) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    ("value", "priority"), [(b"bulk", "bulk"), (b" Interactive", "interactive")]
)
def test_a_header_names_the_priority(value: bytes, priority: str) -> None:
    assert read_terms({b"x-bei-priority": value}) == Terms(Priority(priority))


@pytest.mark.parametrize("value", ["soon", "", "-5", "nan", "1e3", "infinity", "٣"])
def test_a_timeout_that_is_no_number_is_refused(value: str) -> None:
    response = ask(
        "POST", EMBEDDINGS, json={"input": "w1"}, headers={b"x-timeout-ms": value.encode()}
    )

    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith("header `x-timeout-ms` is `")
    assert "not a number of milliseconds" in response.json()["error"]["message"]


def test_a_priority_that_does_not_exist_is_refused() -> None:
    response = ask("POST", "/embed", json={"inputs": "w1"}, headers={"x-bei-priority": "high"})

    assert response.status_code == 422
    assert response.json() == {
        "error": "header `x-bei-priority` is `high`, not `interactive` or `bulk`",
        "error_type": "Validation",
        "hint": "leave it out to decide by the request's size",
    }


@given(st.binary(max_size=30))
def test_any_header_is_read_or_refused(value: bytes) -> None:
    for name in (b"x-bei-priority", b"x-timeout-ms", b"request-deadline-ms"):
        with suppress(RequestError):
            assert read_terms({name: value}) != NO_TERMS


def test_terms_hold_for_the_body_and_no_longer() -> None:
    with Terms(Priority.BULK).apply():
        assert current_terms().priority is Priority.BULK

    assert current_terms() is NO_TERMS


def test_a_block_that_takes_too_long_is_cancelled() -> None:
    async def run() -> None:
        with pytest.raises(DeadlineExceededError):
            async with within(time.monotonic() + 0.01):
                await asyncio.sleep(60)

    asyncio.run(run())


def test_a_timeout_of_something_else_stays_what_it_is() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError, match="another"):
            async with within(time.monotonic() + 60):
                raise TimeoutError("another")

    asyncio.run(run())


@pytest.mark.parametrize(
    "headers",
    [
        {"request-timeout-ms": "0"},
        {"request-deadline-ms": str(int(time.time() * 1000) - MINUTE_MS)},
    ],
)
def test_a_deadline_that_has_passed_is_said_to_have(headers: dict[str, str]) -> None:
    engine = FakeEngine()

    response = ask("POST", EMBEDDINGS, json={"input": "w1"}, headers=headers, engine=engine)

    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert engine.num_sequences == 0


def test_a_client_is_told_at_its_deadline_though_the_engine_is_busy() -> None:
    with live_server() as server:
        server.engine.gate.clear()
        response = httpx2.post(
            server.url + "/embed", json={"inputs": "w1"}, headers={"x-timeout-ms": "50"}
        )

        assert response.status_code == 504
        assert response.json()["error_type"] == "Timeout"
        server.engine.gate.set()
        assert httpx2.post(server.url + "/embed", json={"inputs": "w2"}).status_code == 200


def test_what_is_late_never_reaches_the_engine() -> None:
    with live_server() as server, ThreadPoolExecutor() as clients:
        before = server.engine.num_sequences
        server.engine.gate.clear()
        running = clients.submit(httpx2.post, server.url + "/embed", json={"inputs": "w1"})
        wait_until(lambda: server.pipeline.stalled_for_s() > 0)
        late = httpx2.post(
            server.url + "/embed", json={"inputs": ["w2", "w3"]}, headers={"x-timeout-ms": "20"}
        )
        server.engine.gate.set()

        assert late.status_code == 504
        assert running.result().status_code == 200
        assert server.engine.num_sequences == before + 1


def test_the_performance_clients_hour_changes_nothing() -> None:
    headers = {
        "request-timeout-ms": "3600000",
        "request-deadline-ms": str(int((time.time() + 3600) * 1000)),
    }

    response = ask("POST", EMBEDDINGS, json={"input": "w1"}, headers=headers)

    assert response.status_code == 200
