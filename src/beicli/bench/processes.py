"""Clients spread over processes, and the one process that is enough for most servers.

Every process runs a `LoadGenerator`. They share one clock (`time.perf_counter` counts for the whole
machine), so a round is planned in moments and every process keeps to them by itself.
"""

import asyncio
import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import reduce
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol, Self

from beicli.bench.client import (
    LoadGenerator,
    Progress,
    RoundPlan,
    Session,
    Share,
    ShowProgress,
    ignore_progress,
)
from beicli.bench.histogram import Histogram
from beicli.bench.measurement import Round, Tally
from beicli.errors import BenchError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_CUT = "cut"
_EXIT_TIMEOUT_S = 5.0


class Clients(Protocol):
    """Whatever can put load on a server, in this process or in others."""

    num_processes: int
    # From making a plan to the earliest moment at which it can begin everywhere.
    start_delay_s: float

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    def take_shares(self, shares: Sequence[Share]) -> None:
        """Send this from now on; one share a process."""

    async def run_round(self, plan: RoundPlan, on_progress: ShowProgress) -> Round:
        """Put the load on a server. Cancelling it returns what was measured so far, once."""


def open_clients(session: Session, num_processes: int) -> Clients:
    """Return clients to be used within `async with`."""
    if num_processes == 1:
        return LocalClients(session)
    return ProcessClients(session, num_processes)


class LocalClients:
    """All clients in this process."""

    num_processes = 1
    start_delay_s = 0.0

    def __init__(self, session: Session) -> None:
        self._generator = LoadGenerator(session)

    async def __aenter__(self) -> Self:
        await self._generator.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._generator.__aexit__()

    def take_shares(self, shares: Sequence[Share]) -> None:
        (share,) = shares
        self._generator.take_share(share)

    async def run_round(self, plan: RoundPlan, on_progress: ShowProgress) -> Round:
        return await self._generator.run_round(plan, on_progress)


class ProcessClients:
    """The clients in several processes, each with its own share of the load."""

    start_delay_s = 0.05

    def __init__(self, session: Session, num_processes: int) -> None:
        self.num_processes = num_processes
        self._session = session
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # A new interpreter for each: a copy of this one would share its event loop's innards.
        context = multiprocessing.get_context("spawn")
        self._stack.callback(self._stop)
        for _ in range(self.num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve_load, args=(theirs, self._session), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)
        try:
            await self._answers(ignore_progress)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def take_shares(self, shares: Sequence[Share]) -> None:
        for connection, share in zip(self._connections, shares, strict=True):
            _send(connection, share)

    async def run_round(self, plan: RoundPlan, on_progress: ShowProgress) -> Round:
        for connection in self._connections:
            _send(connection, plan)
        answers = asyncio.ensure_future(self._answers(on_progress))
        try:
            rounds = await asyncio.shield(answers)
        except asyncio.CancelledError:
            if task := asyncio.current_task():
                task.uncancel()
            for connection in self._connections:
                _send(connection, _CUT)
            rounds = await answers
        return reduce(merge_rounds, (each for each in rounds if isinstance(each, Round)))

    async def _answers(self, on_progress: ShowProgress) -> list[object]:
        """Wait until every process has said something that is no progress."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[object]] = [loop.create_future() for _ in self._connections]
        latest: dict[int, Progress] = {}

        def read(number: int) -> None:
            try:
                message = self._connections[number].recv()
            except (EOFError, OSError):
                loop.remove_reader(self._connections[number].fileno())
                answers[number].set_exception(_process_ended())
                return
            if isinstance(message, Progress):
                latest[number] = message
                if number == min(latest):
                    on_progress(_add_progress(list(latest.values())))
            else:
                answers[number].set_result(message)

        for number, connection in enumerate(self._connections):
            loop.add_reader(connection.fileno(), read, number)
        try:
            return await asyncio.gather(*answers)
        finally:
            for connection in self._connections:
                loop.remove_reader(connection.fileno())

    def _stop(self) -> None:
        for connection in self._connections:
            # The end of its connection tells a process to leave.
            connection.close()
        for process in self._processes:
            process.join(_EXIT_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()


def _send(connection: Connection, message: Share | RoundPlan | str) -> None:
    try:
        connection.send(message)
    except OSError as error:
        raise _process_ended() from error


def _process_ended() -> BenchError:
    return BenchError(
        "a client process ended unexpectedly", hint="what it said stands above; is memory short?"
    )


def serve_load(connection: Connection, session: Session) -> None:
    """Run in a process of its own: do what comes through `connection`, until that ends."""
    # Ctrl-C goes to every process of a terminal; the parent says what is to be done about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve_load(connection, session))


async def _serve_load(connection: Connection, session: Session) -> None:
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Share | RoundPlan | None] = asyncio.Queue()
    running: asyncio.Task[Round] | None = None

    def read() -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            loop.remove_reader(connection.fileno())
            message = None
        if message in (_CUT, None) and running is not None:
            running.cancel()
        if message != _CUT:
            inbox.put_nowait(message)

    async with LoadGenerator(session) as generator:
        loop.add_reader(connection.fileno(), read)
        connection.send("ready")
        while (message := await inbox.get()) is not None:
            if isinstance(message, Share):
                generator.take_share(message)
                continue
            running = asyncio.create_task(generator.run_round(message, connection.send))
            result = await running
            running = None
            connection.send(result)


def merge_rounds(one: Round, other: Round) -> Round:
    """Add up what two processes saw of the same round."""
    tally, lags_s = Tally(), Histogram()
    for each in (one, other):
        tally.merge(each.tally)
        lags_s.merge(each.loop_lags_s)
    return Round(
        tally=tally,
        window_s=max(one.window_s, other.window_s),
        busiest_client_cpu_s=max(one.busiest_client_cpu_s, other.busiest_client_cpu_s),
        loop_lags_s=lags_s,
        is_interrupted=one.is_interrupted or other.is_interrupted,
        served_model=one.served_model or other.served_model,
    )


def _add_progress(parts: Sequence[Progress]) -> Progress:
    first = parts[0]
    return Progress(
        first.phase,
        first.elapsed_s,
        first.total_s,
        num_requests=sum(part.num_requests for part in parts),
        num_errors=sum(part.num_errors for part in parts),
        p50_ms=max(part.p50_ms for part in parts),
        p99_ms=max(part.p99_ms for part in parts),
    )
