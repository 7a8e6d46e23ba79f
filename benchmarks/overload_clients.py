"""Load in processes of their own: clients in a closed loop, or requests by the clock."""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.synchronize import Barrier
from pathlib import Path

from raw_http import RawAnswer, RawConnection, embeddings

from beicli.bench.loads import arrivals

OK = 200
REFUSED = frozenset({429, 503})
# The server reads it; size alone would tell as well.
PRIORITY_HEADER = "x-bei-priority"
# After which a client of the open loop gives up; far beyond what a server may promise.
TIMEOUT_S = 60.0
# For the other processes to begin; without them there is nothing to measure.
START_TIMEOUT_S = 60.0
NUM_REQUESTS = 200


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one size; name: what the header calls them."""

    name: str
    num_texts: int


INTERACTIVE = Kind("interactive", 1)
BULK = Kind("bulk", 32)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: when it was due and when it was over, on the monotonic clock of the machine.

    status: 0 for a connection that broke, or nothing within the timeout.
    """

    due_at: float
    over_at: float
    status: int
    has_retry_after: bool

    @property
    def latency_s(self) -> float:
        return self.over_at - self.due_at


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What one process sends, and for how long: so many clients, or so many requests a second."""

    url: str
    texts: Path
    kind: Kind
    seconds: float
    num_clients: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of it, and when it began."""

    started_at: float
    outcomes: list[Outcome]


_everybody: list[Barrier] = []


def meet_at(barrier: Barrier) -> None:
    """Let this process begin when all others are there too; where one starts."""
    _everybody.append(barrier)


def put_load(plan: LoadPlan) -> Sent:
    """Send it, and wait for what is under way; to be run in a process of its own."""
    return asyncio.run(_Sender(plan).run())


def write_requests(path: Path, kind: Kind) -> list[bytes]:
    """Write requests of one kind from texts, one JSON string a line."""
    texts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    endless = cycle(texts)
    return [
        embeddings([next(endless) for _ in range(kind.num_texts)], {PRIORITY_HEADER: kind.name})
        for _ in range(NUM_REQUESTS)
    ]


class _Sender:
    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._requests = cycle(write_requests(plan.texts, plan.kind))
        self._idle: list[RawConnection] = []
        self._outcomes: list[Outcome] = []

    async def run(self) -> Sent:
        for barrier in _everybody:
            barrier.wait(START_TIMEOUT_S)
        started_at = time.monotonic()
        self._ends_at = started_at + self._plan.seconds
        if self._plan.rate is None:
            await asyncio.gather(*(self._client() for _ in range(self._plan.num_clients or 0)))
        elif self._plan.rate > 0:
            await self._by_the_clock(started_at, self._plan.rate)
        return Sent(started_at, self._outcomes)

    async def _client(self) -> None:
        while (now := time.monotonic()) < self._ends_at:
            await self._send(now)

    async def _by_the_clock(self, started_at: float, rate: float) -> None:
        """Send what is due, whether or not earlier requests were answered."""
        running: set[asyncio.Task[None]] = set()
        for due_at in arrivals(rate, start_s=started_at, seed=self._plan.kind.num_texts):
            if due_at >= self._ends_at:
                break
            await asyncio.sleep(due_at - time.monotonic())
            task = asyncio.create_task(self._send(due_at))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _ask(self, request: bytes) -> tuple[RawConnection, RawAnswer]:
        """Ask on an idle connection, or on a new one; as any client, once more if it was closed."""
        if self._idle:
            connection = self._idle.pop()
            with suppress(OSError, EOFError):
                return connection, await connection.ask(request)
        connection = await RawConnection.open(self._plan.url)
        return connection, await connection.ask(request)

    async def _send(self, due_at: float) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                connection, answer = await self._ask(next(self._requests))
        except (OSError, EOFError):
            # A timeout is one too. Without a pause a server that is gone would be asked for ever.
            self._outcomes.append(Outcome(due_at, time.monotonic(), 0, has_retry_after=False))
            await asyncio.sleep(0.1)
            return
        self._idle.append(connection)
        self._outcomes.append(
            Outcome(due_at, time.monotonic(), answer.status, answer.has_retry_after)
        )
