"""What breaks inside the server or is never sent by a client, through a real server and sockets."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.server.fakes import (
    FIRST_WORD_ID,
    TIMEOUT_S,
    FakeEngine,
    LiveServer,
    live_server,
    vector,
    wait_until,
    word_ids,
)
from tests.server.test_run import HEAD, connected, is_closed

from beicli.engine.batch import Batch, EngineOutput, Float32
from beicli.server import connections, exchange, information
from beicli.server.options import ServerOptions

EMBEDDINGS = "/v1/embeddings"
BAD_WORD = 13
NUM_WAITING = 7
NUM_CLIENTS = 24

Wrong = Callable[[Float32, NDArray[np.bool_]], Float32 | None]


def embed(server: LiveServer, *numbers: int) -> httpx2.Response:
    body = {"input": [f"w{number}" for number in numbers]}
    return httpx2.post(server.url + EMBEDDINGS, json=body, timeout=TIMEOUT_S)


def is_right(response: httpx2.Response, *numbers: int) -> bool:
    rows = [item["embedding"] for item in response.json()["data"]]
    return np.allclose(rows, [vector(word_ids(number)) for number in numbers], atol=1e-6)


class FailsNow(FakeEngine):
    """Raises `error` at its next forward pass, once."""

    error: BaseException | None = None

    def forward(self, batch: Batch) -> EngineOutput:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().forward(batch)


@pytest.mark.parametrize("error", [RuntimeError("device lost"), MemoryError(), AssertionError()])
def test_an_engine_that_fails_once_costs_one_lone_text_its_answer(error: Exception) -> None:
    engine = FailsNow()
    with live_server(engine) as server:
        before = embed(server, 1)
        engine.error = error
        failed, after = embed(server, 2), embed(server, 2)

    assert [before.status_code, failed.status_code, after.status_code] == [200, 424, 200]
    assert failed.json()["error"]["code"] == "engine_error"
    assert is_right(after, 2)


def test_an_engine_that_fails_once_costs_a_batch_nothing() -> None:
    engine = FailsNow()
    with live_server(engine) as server:
        engine.error = RuntimeError("device lost")
        response = embed(server, *range(1, 9))

    assert is_right(response, *range(1, 9))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_slot_died_is_not_worth_keeping_and_says_so() -> None:
    engine = FailsNow()
    with live_server(engine) as server, connected(server) as waiting:
        engine.error = SystemExit()
        waiting.sendall(HEAD + b'content-length: 15\r\n\r\n{"input": "w1"}')

        wait_until(lambda: httpx2.get(server.url + "/health").status_code == 503)


@dataclass
class WrongOutput(FakeEngine):
    """Gives `wrong(rows, is_bad)` for a batch in which BAD_WORD occurs; is_bad: in which row."""

    wrong: Wrong = field(default=lambda rows, _is_bad: rows)

    def forward(self, batch: Batch) -> EngineOutput:
        output = super().forward(batch)
        if FIRST_WORD_ID + BAD_WORD not in batch.input_ids:
            return output
        assert output.pooled is not None
        sequences = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        is_bad = np.array([FIRST_WORD_ID + BAD_WORD in ids for ids in sequences])
        return EngineOutput(self.wrong(output.pooled, is_bad))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows, _: rows[1:],
        lambda rows, _: np.vstack([rows[:1], rows]),
        lambda rows, _: rows[:, :3],
        lambda rows, _: rows.ravel(),
        lambda _rows, _: None,
        lambda rows, is_bad: np.where(is_bad[:, None], np.float32(np.nan), rows),
        lambda rows, is_bad: np.where(is_bad[:, None], np.float32(np.inf), rows),
    ],
    ids=["a row missing", "a row too many", "narrow", "flat", "nothing", "NaN", "infinite"],
)
def test_a_wrong_output_is_an_error_of_its_text_and_never_another_texts_vector(
    wrong: Wrong,
) -> None:
    numbers = range(BAD_WORD - 3, BAD_WORD - 3 + NUM_WAITING)
    with (
        live_server(WrongOutput(wrong=wrong)) as server,
        ThreadPoolExecutor(1 + NUM_WAITING) as pool,
    ):
        server.engine.gate.clear()
        first = pool.submit(embed, server, 1)
        wait_until(lambda: server.pipeline.stalled_for_s() > 0 and server.pipeline.num_waiting == 0)
        asked = {number: pool.submit(embed, server, number) for number in numbers}
        # So all of them share a batch.
        wait_until(lambda: server.pipeline.num_waiting == len(numbers))
        server.engine.gate.set()
        answers = {number: response.result() for number, response in asked.items()}

    assert is_right(first.result(), 1)
    assert answers.pop(BAD_WORD).status_code == 424
    assert all(is_right(response, number) for number, response in answers.items())


def test_an_engine_that_hangs_shows_at_health_until_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(information, "STALL_LIMIT_S", 0.1)
    with live_server() as server:
        server.engine.gate.clear()
        asking = threading.Thread(target=lambda: embed(server, 1))
        asking.start()

        wait_until(lambda: httpx2.get(server.url + "/health").status_code == 503)
        assert httpx2.get(server.url + "/metrics").status_code == 200

        server.engine.gate.set()
        wait_until(lambda: httpx2.get(server.url + "/health").status_code == 200)
        asking.join(TIMEOUT_S)


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/embed", HEAD, HEAD + b"content-length: 100\r\n\r\n{"],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
def test_a_client_that_sends_no_more_is_closed_after_a_while(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(exchange, "BODY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(exchange, "LINGER_S", 0.2)

    with live_server() as server:
        num_tasks = server.num_tasks()
        with connected(server) as connection:
            connection.sendall(sent)
            while connection.recv(4096):
                pass
        wait_until(lambda: server.num_tasks() == num_tasks)


class SlowEngine(FakeEngine):
    """Takes its time for a batch, so that clients queue."""

    def forward(self, batch: Batch) -> EngineOutput:
        time.sleep(0.003)
        return super().forward(batch)


class Clients:
    """Threads that ask without a pause until the server is gone; they count what they hear."""

    def __init__(self, server: LiveServer) -> None:
        self.heard: Counter[int] = Counter()
        self._server = server
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        address = ("127.0.0.1", self._server.port)
        headers = {"content-type": "application/json"}
        body = json.dumps({"input": [f"w{number}", f"w{number + 100}"]})
        with closing(http.client.HTTPConnection(*address, timeout=TIMEOUT_S)) as connection:
            try:
                while True:
                    connection.request("POST", EMBEDDINGS, body, headers)
                    response = connection.getresponse()
                    response.read()
                    self.heard[response.status] += 1
            except (OSError, http.client.HTTPException):
                return

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)


def counted(server: LiveServer, series: str) -> int:
    lines = server.metrics.render().decode().splitlines()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(series))


def num_inside(server: LiveServer) -> int:
    return counted(server, "te_request_count{") - counted(server, "te_request_success{")


def test_a_stop_under_load_answers_whatever_was_admitted() -> None:
    with live_server(SlowEngine()) as server:
        clients = Clients(server)
        wait_until(lambda: clients.heard[200] > 5 * NUM_CLIENTS)

        server.stop()
        clients.join()
        assert server.join()

    # What the server believes to have answered has arrived, and it began nothing else.
    assert clients.heard.keys() == {200}
    assert clients.heard[200] == counted(server, "te_request_success{")
    assert clients.heard[200] == counted(server, "te_request_count{")
    assert counted(server, "te_request_failure{") == 0


def test_a_stop_under_load_tells_those_it_cannot_wait_for() -> None:
    options = ServerOptions(port=0, drain_timeout_s=0.05)
    with live_server(SlowEngine(), options) as server:
        clients = Clients(server)
        wait_until(lambda: clients.heard[200] > NUM_CLIENTS)
        server.engine.gate.clear()
        wait_until(lambda: num_inside(server) == NUM_CLIENTS)

        server.stop()
        clients.join()

    assert clients.heard.keys() == {200, 503}
    assert clients.heard[200] == counted(server, "te_request_success{")
    assert clients.heard[503] == counted(server, 'te_request_failure{err="unhealthy"}')
    assert sum(clients.heard.values()) == counted(server, "te_request_count{")


def test_a_connection_that_was_only_opened_is_closed_by_a_stop() -> None:
    with live_server() as server, connected(server) as silent, connected(server) as half:
        half.sendall(HEAD)

        server.stop()

        assert server.join()
        assert is_closed(silent)
        assert is_closed(half)
