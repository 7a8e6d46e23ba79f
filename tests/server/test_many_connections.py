"""Connections by the thousand: those that do nothing, and those that all ask at once."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.server.fakes import TIMEOUT_S, LiveServer, live_server, wait_until

from beicli.server.run import allow_many_connections

NUM_IDLE = 10_000
# As many come between two questions.
STEP = 500
# For all of them to come.
COMING_S = 120.0
# For whatever else the process has open.
NUM_OTHER_FILES = 500
# What the one client that asks has open.
FEW = 10
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_many_connections()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < NUM_IDLE + NUM_OTHER_FILES:
        message = f"this process may open {soft} files only (`ulimit -Hn`)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that closes nobody for silence while the others come."""
    monkeypatch.setattr("beicli.server.connections.HEAD_TIMEOUT_S", 10 * COMING_S)
    monkeypatch.setattr("beicli.server.connections.KEEP_ALIVE_TIMEOUT_S", 10 * COMING_S)


@contextmanager
def idle_clients(server: LiveServer, num_clients: int) -> "Iterator[subprocess.Popen[str]]":
    numbers = (str(server.port), str(num_clients))
    command = [sys.executable, "-m", "tests.server.idle_clients", *numbers]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def asks(client: httpx2.Client, server: LiveServer) -> float:
    """Ask for a vector and return how long the answer took."""
    started_at = time.monotonic()
    answer = client.post(server.url + "/v1/embeddings", json={"input": "w1"}, timeout=TIMEOUT_S)
    assert answer.status_code == 200
    return time.monotonic() - started_at


@pytest.mark.usefixtures("_many_files", "_patient")
def test_ten_thousand_idle_connections_do_not_keep_anybody_from_an_answer() -> None:
    with live_server() as server, httpx2.Client() as client:
        num_files, num_tasks = num_open_files(), server.num_tasks()
        with idle_clients(server, NUM_IDLE) as process:
            # While they come, and when all are there.
            deadline = time.monotonic() + COMING_S
            for num_there in range(STEP, NUM_IDLE + 1, STEP):
                while num_open_files() < num_files + num_there:
                    assert process.poll() is None
                    assert time.monotonic() < deadline, f"{num_there} are not there in time"
                    time.sleep(0.01)
                asks(client, server)
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            assert httpx2.post(server.url + "/embed", json={"inputs": "w1"}).status_code == 200
            assert min(asks(client, server) for _ in range(20)) < 1

        # They leave all at once, and nothing of them stays.
        wait_until(lambda: num_open_files() < num_files + FEW)
        wait_until(lambda: server.num_tasks() < num_tasks + FEW)
        asks(client, server)


@pytest.mark.usefixtures("_many_files")
def test_a_thousand_idle_connections_do_not_hold_up_a_stop() -> None:
    with live_server() as server:
        num_files = num_open_files()
        with idle_clients(server, 1_000):
            wait_until(lambda: num_open_files() >= num_files + 1_000)

            server.stop()

            assert server.join()
