"""One of two processes breaks, in a real server under load; the other goes on."""

import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import numpy as np
import pytest
from tests.flow.conftest import RunningServer
from tests.flow.test_replicas import is_alive, num_connections, replicas_of, wait_until
from tests.server.replicas.faulty import HANGING_WORD
from tests.server.tiny_engine import make_artifact, sum_vector

NUM_CLIENTS = 8
TIMEOUT_S = 30.0
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("engines") / "engine").path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def server(engine: Path, log: Path) -> Iterator[RunningServer]:
    command = [sys.executable, "-m", "tests.server.replicas.faulty", str(engine), "2"]
    with (
        log.open("w") as said,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=REPOSITORY
        ) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, log.read_text()
            yield RunningServer(url, process)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


class Clients:
    """Threads that ask for their own vector until told to stop, each on a connection that stays.

    num_right: answers that were what they had to be; wrong: all others; num_lost: requests that
    broke off without an answer.
    """

    def __init__(self, server: RunningServer) -> None:
        self.num_right = 0
        self.wrong: list[object] = []
        self.num_lost = 0
        self._address = server.url.removeprefix("http://")
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        body = json.dumps({"input": f"w{number}"})
        expected = sum_vector(number)
        while not self._is_over.is_set():
            with closing(http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)) as asking:
                try:
                    while not self._is_over.is_set():
                        self._count(*ask(asking, body), expected)
                except (OSError, http.client.HTTPException):
                    with self._lock:
                        self.num_lost += 1

    def _count(self, status: int, answer: bytes, expected: np.ndarray) -> None:
        is_right = status == 200 and np.allclose(
            json.loads(answer)["data"][0]["embedding"], expected, atol=1e-5
        )
        with self._lock:
            if is_right:
                self.num_right += 1
            else:
                self.wrong.append((status, answer))

    def wait_for_more(self) -> None:
        """Wait until every client can have had some more answers."""
        seen = self.num_right
        wait_until(lambda: self.num_right > seen + 10 * NUM_CLIENTS)

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)


def ask(connection: http.client.HTTPConnection, body: str) -> tuple[int, bytes]:
    connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


@pytest.fixture
def clients(server: RunningServer) -> Iterator[Clients]:
    asking = Clients(server)
    try:
        asking.wait_for_more()
        yield asking
    finally:
        asking.stop()


def test_a_killed_replica_costs_what_was_in_flight_there_and_nothing_else(
    server: RunningServer, clients: Clients
) -> None:
    victim, other = replicas_of(server.process.pid)
    num_held = num_connections(victim, server)

    os.kill(victim, signal.SIGKILL)

    clients.wait_for_more()
    wait_until(lambda: not is_alive(victim) and len(replicas_of(server.process.pid)) == 2)
    clients.wait_for_more()
    clients.stop()
    assert clients.wrong == []
    # A client has one request in flight, and all came back to be answered.
    assert clients.num_lost <= num_held
    assert other in replicas_of(server.process.pid)


def test_a_replica_whose_engine_hangs_is_replaced_while_the_other_serves(
    server: RunningServer, clients: Clients
) -> None:
    before = set(replicas_of(server.process.pid))

    hanging = httpx2.post(
        server.url + "/v1/embeddings", json={"input": f"w{HANGING_WORD}"}, timeout=TIMEOUT_S
    )

    assert hanging.status_code == 503
    clients.wait_for_more()
    wait_until(lambda: len(before & set(replicas_of(server.process.pid))) == 1)
    wait_until(lambda: len(replicas_of(server.process.pid)) == 2)
    clients.wait_for_more()
    clients.stop()
    # Those who waited behind it are told; nobody gets another answer.
    assert {status for status, _ in clients.wrong} <= {503}


def test_a_replica_that_stands_still_is_replaced_while_the_other_serves(
    server: RunningServer, clients: Clients
) -> None:
    victim, other = replicas_of(server.process.pid)
    num_held = num_connections(victim, server)

    os.kill(victim, signal.SIGSTOP)

    wait_until(lambda: not is_alive(victim) and len(replicas_of(server.process.pid)) == 2)
    clients.wait_for_more()
    clients.stop()
    assert clients.wrong == []
    assert clients.num_lost <= num_held
    assert other in replicas_of(server.process.pid)


def test_replicas_that_can_write_no_file_go_on_serving(
    server: RunningServer, clients: Clients
) -> None:
    replicas = replicas_of(server.process.pid)
    hard = resource.prlimit(replicas[0], resource.RLIMIT_FSIZE)[1]
    for pid in replicas:
        # What a full disk is to a page of metrics: nothing can be written any more.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))

    clients.wait_for_more()
    assert httpx2.get(server.url + "/metrics", timeout=TIMEOUT_S).status_code == 200

    for pid in replicas:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    clients.stop()
    assert (clients.wrong, clients.num_lost) == ([], 0)
    assert all(map(is_alive, replicas))
    # With room again, both know of everything.
    wait_until(lambda: counted(server) >= clients.num_right)
    server.process.terminate()
    assert server.process.wait(TIMEOUT_S) == 0


def counted(server: RunningServer) -> float:
    page = httpx2.get(server.url + "/metrics", timeout=TIMEOUT_S).text
    found = re.search(
        r'^bei_requests_total\{route="/v1/embeddings",status="200"\} (\S+)$', page, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def test_a_stop_of_all_replicas_under_load_answers_whatever_they_admitted(
    server: RunningServer, clients: Clients, log: Path
) -> None:
    server.process.terminate()

    assert server.process.wait(TIMEOUT_S) == 0
    clients.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ends = Counter((line.get("status"), line.get("failure")) for line in lines)
    # A line for each answer that arrived, and for nothing else.
    assert clients.wrong == []
    assert ends == {(200, None): clients.num_right}
