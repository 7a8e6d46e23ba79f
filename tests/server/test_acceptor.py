import asyncio
import errno
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from beicli.server import acceptor
from beicli.server.acceptor import Acceptor
from beicli.server.replicas.turns import OpenConnections, Turns
from beicli.server.run import bind_socket

NUM_REPLICAS = 2
TIMEOUT_S = 10.0

Scenario = Callable[["Replicas"], Coroutine[None, None, None]]


@pytest.fixture
def counts(tmp_path: Path) -> Iterator[OpenConnections]:
    path = tmp_path / "counts"
    with closing(OpenConnections.create(path, num_replicas=NUM_REPLICAS)) as counts:
        yield counts


class Replicas:
    """Two acceptors of one socket, as in two processes; each holds its clients until they leave."""

    def __init__(self, counts: OpenConnections) -> None:
        self._socket = bind_socket("127.0.0.1", 0)
        self._socket.listen()
        self.address = self._socket.getsockname()
        self.held = [0] * NUM_REPLICAS
        self.acceptors = [
            Acceptor(self._socket.dup(), self._serve(number), Turns(counts, number))
            for number in range(NUM_REPLICAS)
        ]

    def _serve(self, number: int) -> acceptor.Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.held[number] += 1
            await reader.read()
            self.held[number] -= 1
            writer.close()

        return serve

    def close(self) -> None:
        for each in self.acceptors:
            each.close()
        self._socket.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - what is awaited here sets no event
            await asyncio.sleep(0.001)


def run(
    scenario: Callable[[Replicas], Coroutine[None, None, None]], counts: OpenConnections
) -> None:
    async def all_of_it() -> None:
        with closing(Replicas(counts)) as replicas:
            await scenario(replicas)
            await until(lambda: replicas.held == [0] * NUM_REPLICAS)

    asyncio.run(all_of_it())


async def connect(replicas: Replicas, number: int) -> list[asyncio.StreamWriter]:
    return [(await asyncio.open_connection(*replicas.address))[1] for _ in range(number)]


def close_all(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()


def test_clients_that_stay_are_spread_evenly(counts: OpenConnections) -> None:
    async def scenario(replicas: Replicas) -> None:
        for _ in range(5):
            writers = await connect(replicas, 9)
            await until(lambda: sum(replicas.held) == 9)

            assert sorted(replicas.held) == [4, 5]

            close_all(writers)
            await until(lambda: sum(replicas.held) == 0)

    run(scenario, counts)


def test_nobody_waits_long_for_a_replica_that_is_busy(
    counts: OpenConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(replicas: Replicas) -> None:
        monkeypatch.setattr(acceptor, "PATIENCE_S", 0.2)
        # As if its event loop hung: it holds none, and takes none.
        monkeypatch.setattr(replicas.acceptors[1], "_accept", lambda: None)
        started_at = time.monotonic()
        writers = await connect(replicas, 20)

        await until(lambda: replicas.held == [20, 0])

        # Once for them all: one after the other it would be 4 s.
        assert time.monotonic() - started_at < 2
        close_all(writers)

    run(scenario, counts)


def test_a_replica_that_is_closed_leaves_all_to_the_other(counts: OpenConnections) -> None:
    async def scenario(replicas: Replicas) -> None:
        replicas.acceptors[0].close()
        replicas.acceptors[0].close()

        writers = await connect(replicas, 4)

        await until(lambda: replicas.held == [0, 4])
        close_all(writers)

    run(scenario, counts)


def test_what_is_open_stays_open_when_a_replica_is_closed(counts: OpenConnections) -> None:
    async def scenario(replicas: Replicas) -> None:
        writers = await connect(replicas, 2)
        await until(lambda: replicas.held == [1, 1])

        replicas.acceptors[0].close()
        await asyncio.sleep(0.01)

        assert replicas.held == [1, 1]
        close_all(writers)

    run(scenario, counts)


def test_a_replica_out_of_files_says_so_and_tries_again(
    counts: OpenConnections, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "RETRY_S", 0.01)
    failures = [OSError(errno.EMFILE, "Too many open files")]
    real_accept = socket.socket.accept

    def accept(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return real_accept(listener)

    async def scenario(replicas: Replicas) -> None:
        replicas.acceptors[1].close()
        monkeypatch.setattr(socket.socket, "accept", accept)
        writers = await connect(replicas, 1)

        await until(lambda: replicas.held == [1, 0])
        close_all(writers)

    run(scenario, counts)

    assert "cannot accept a connection: [Errno 24] Too many open files" in caplog.text


def test_answers_are_sent_at_once(counts: OpenConnections) -> None:
    async def scenario(replicas: Replicas) -> None:
        nodelay: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            nodelay.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        for each in replicas.acceptors:
            each._serve = serve
        close_all(await connect(replicas, 1))

        await until(lambda: len(nodelay) == 1)
        assert nodelay[0] != 0

    run(scenario, counts)
