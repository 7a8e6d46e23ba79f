"""Load on a server from one process: a closed loop of clients, or requests by the clock.

In a closed loop every client keeps one request in flight. In an open loop requests are due at given
moments whatever the server does, and latency counts from that moment: a server that stalls is
charged for the requests that had to wait meanwhile.

A request counts when it completed inside the window; those in flight at its end are awaited, so the
server is left idle, but they do not count.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Literal, Self

from beicli.bench.histogram import Histogram
from beicli.bench.loads import arrivals
from beicli.bench.measurement import Round, Tally
from beicli.bench.pacer import Pacer
from beicli.bench.routes import Route
from beicli.bench.sender import Sender
from beicli.bench.settings import Target
from beicli.bench.texts import LengthClass

# Without a pause a server that went away would fill the figures with refused connections.
_RECONNECT_PAUSE_S = 0.1
_TICK_S = 0.5
# Less than this is how any process is scheduled on a busy machine.
_LATE_S = 0.01
_LAG_PERIOD_S = 0.02

Phase = Literal["warm-up", "window", "last requests"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a round is; told at the start of each phase and about twice a second within it.

    num_requests: completed so far, those of the warm-up too. Latencies are those of the window.
    """

    phase: Phase
    elapsed_s: float
    total_s: float
    num_requests: int = 0
    num_errors: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


ShowProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What stays the same while a process puts load on servers."""

    targets: tuple[Target, ...]
    route: Route
    timeout_s: float
    max_connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process sends at one load.

    bodies: [server][client][request of one pass]; an open loop has one client, whose requests
    `max_connections` connections take in turn.
    length_classes: of the requests of a mix, so both get latencies of their own.
    rate_per_second: of an open loop, None for a closed one. seed: of its arrivals.
    """

    bodies: tuple[tuple[tuple[bytes, ...], ...], ...]
    max_connections: int
    length_classes: Mapping[bytes, LengthClass] = field(default_factory=dict)
    rate_per_second: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """When a round begins and counts, on the clock of `time.perf_counter`.

    server: position of the server. number: of the round, so each has arrivals of its own.
    seconds_before: what earlier rounds on the same server measured.
    """

    server: int
    number: int
    start_s: float
    window_start_s: float
    window_end_s: float
    seconds_before: float = 0.0


class LoadGenerator:
    """The clients of one process; to be used within `async with`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._share: Share | None = None
        self._passes: list[list[Iterator[bytes]]] = []
        self._stack = AsyncExitStack()
        self._senders: list[Sender] = []

    async def __aenter__(self) -> Self:
        session = self._session
        for target in session.targets:
            sender = Sender(
                target,
                session.route,
                max_connections=session.max_connections,
                timeout_s=session.timeout_s,
            )
            self._senders.append(await self._stack.enter_async_context(sender))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def take_share(self, share: Share) -> None:
        """Send this from now on."""
        self._share = share
        self._passes = [
            [itertools.cycle(requests) for requests in clients] for clients in share.bodies
        ]

    async def run_round(self, plan: RoundPlan, on_progress: ShowProgress) -> Round:
        """Put the load on a server. Cancelling it returns what was measured so far, once."""
        assert self._share is not None
        run = _Running(
            self._senders[plan.server],
            plan,
            self._share.length_classes,
            timeout_s=self._session.timeout_s,
            on_progress=on_progress,
        )
        passes = self._passes[plan.server]
        rate = self._share.rate_per_second
        if rate is None:
            return await run.measure([run.closed_loop(requests) for requests in passes])
        # Every round and process has arrivals of its own, the same in every run.
        seed = self._share.seed * 1_000_003 + plan.number
        moments_s = arrivals(rate, start_s=plan.start_s, seed=seed)
        pacer = Pacer(moments_s, end_s=plan.window_end_s)
        try:
            return await run.measure(
                [run.open_loop(pacer, passes[0]) for _ in range(self._share.max_connections)]
            )
        finally:
            pacer.stop()


class _Running:
    """The state of one round, owned by its event loop."""

    def __init__(
        self,
        sender: Sender,
        plan: RoundPlan,
        length_classes: Mapping[bytes, LengthClass],
        *,
        timeout_s: float,
        on_progress: ShowProgress,
    ) -> None:
        self._sender = sender
        self._plan = plan
        self._length_classes = length_classes
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._tally = Tally()
        self._lags_s = Histogram()
        self._window_start_s = plan.window_start_s
        self._window_end_s = plan.window_end_s
        self._cpu_at_start_s = 0.0
        self._cpu_at_end_s = 0.0

    async def measure(self, loops: Sequence[Coroutine[None, None, None]]) -> Round:
        tasks = [asyncio.create_task(loop) for loop in loops]
        watch = asyncio.create_task(self._watch_loop())
        is_interrupted = False
        try:
            await self._supervise(tasks)
        except asyncio.CancelledError:
            # Ctrl-C arrives as a cancellation; it is answered with what there is.
            if task := asyncio.current_task():
                task.uncancel()
            is_interrupted = True
            self._cut_window()
        finally:
            for task in (*tasks, watch):
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)
        return Round(
            tally=self._tally,
            window_s=self._window_end_s - self._window_start_s,
            busiest_client_cpu_s=self._cpu_at_end_s - self._cpu_at_start_s,
            loop_lags_s=self._lags_s,
            is_interrupted=is_interrupted,
            served_model=self._sender.served_model,
        )

    async def closed_loop(self, requests: Iterator[bytes]) -> None:
        """Send the next request when the last one was answered."""
        await _sleep_until(self._plan.start_s)
        while (sent_s := time.perf_counter()) < self._window_end_s:
            await self._send(next(requests), due_s=sent_s)

    async def open_loop(self, pacer: Pacer, requests: Iterator[bytes]) -> None:
        """Send a request at the next moment that no other connection has taken.

        Moments are taken in order, so one is late only when every connection was busy or the
        event loop was.
        """
        while (due_s := await pacer.next_due()) is not None:
            sent_s = time.perf_counter()
            if sent_s >= self._window_end_s:
                self._count_unfinished(due_s)
                continue
            completed_s = await self._send(
                next(requests), due_s=due_s, is_late=sent_s - due_s > _LATE_S
            )
            if completed_s >= self._window_end_s:
                self._count_unfinished(due_s)

    async def _send(self, body: bytes, *, due_s: float, is_late: bool = False) -> float:
        """Send one request and count what came of it; return when that was."""
        is_warming_up = due_s < self._window_start_s
        reply = await self._sender.send(body, is_warming_up=is_warming_up)
        completed_s = reply.completed_at_s
        if self._window_start_s <= completed_s < self._window_end_s:
            self._tally.add(
                reply,
                latency_s=completed_s - due_s,
                second=int(self._plan.seconds_before + completed_s - self._window_start_s),
                request_bytes=len(body),
                # Cheap: a bytes object remembers its hash.
                length=self._length_classes.get(body),
            )
            self._tally.late_requests += is_late
        else:
            self._tally.add_outside(reply)
        if reply.failure is not None and reply.failure.kind.startswith("connection"):
            await asyncio.sleep(_RECONNECT_PAUSE_S)
        return completed_s

    def _count_unfinished(self, due_s: float) -> None:
        if self._window_start_s <= due_s < self._window_end_s:
            self._tally.unfinished_requests += 1

    async def _supervise(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        plan = self._plan
        warmup_s = plan.window_start_s - plan.start_s
        duration_s = plan.window_end_s - plan.window_start_s
        # The plan of several processes begins a little later than it is made.
        await _sleep_until(plan.start_s)
        await self._wait("warm-up", tasks, self._window_start_s, warmup_s)
        self._cpu_at_start_s = time.process_time()
        await self._wait("window", tasks, self._window_end_s, duration_s)
        self._cpu_at_end_s = time.process_time()
        # A request gives up after its timeout, so this ends; the second more is for the pause.
        longest_s = self._timeout_s + 1
        await self._wait("last requests", tasks, time.perf_counter() + longest_s, longest_s)

    async def _wait(
        self, phase: Phase, tasks: Sequence[asyncio.Task[None]], until_s: float, total_s: float
    ) -> None:
        """Pass the time until `until_s` or until every client has ended; raises what one raised.

        In the window it is the clock that ends it: an open loop may have nothing left to send.
        """
        while (remaining_s := until_s - time.perf_counter()) > 0:
            self._on_progress(self._progress(phase, total_s - remaining_s, total_s))
            pending = [task for task in tasks if not task.done()]
            if pending:
                await asyncio.wait(
                    pending,
                    timeout=min(remaining_s, _TICK_S),
                    return_when=asyncio.FIRST_EXCEPTION,
                )
            elif phase == "last requests":
                return
            else:
                await asyncio.sleep(min(remaining_s, _TICK_S))
            for task in tasks:
                if task.done():
                    task.result()

    def _progress(self, phase: Phase, elapsed_s: float, total_s: float) -> Progress:
        tally = self._tally
        return Progress(
            phase,
            max(elapsed_s, 0.0),
            total_s,
            num_requests=tally.num_requests + tally.num_outside,
            num_errors=tally.failures.count,
            p50_ms=tally.latencies_s.percentile(50) * 1e3,
            p99_ms=tally.latencies_s.percentile(99) * 1e3,
        )

    async def _watch_loop(self) -> None:
        """See how late this event loop is: as late as it comes to answers that have arrived."""
        await _sleep_until(self._window_start_s)
        while True:
            due_s = time.perf_counter() + _LAG_PERIOD_S
            await asyncio.sleep(_LAG_PERIOD_S)
            now_s = time.perf_counter()
            if now_s < self._window_end_s:
                self._lags_s.add(now_s - due_s)

    def _cut_window(self) -> None:
        """End the window now, unless it is over."""
        now_s = time.perf_counter()
        if now_s >= self._window_end_s:
            return
        if now_s > self._window_start_s:
            self._cpu_at_end_s = time.process_time()
        self._window_start_s = min(self._window_start_s, now_s)
        self._window_end_s = now_s


async def _sleep_until(moment_s: float) -> None:
    delay_s = moment_s - time.perf_counter()
    if delay_s > 0:
        await asyncio.sleep(delay_s)
    else:
        # A turn for the others, also for those who are never early.
        await asyncio.sleep(0)


def ignore_progress(_progress: Progress) -> None:
    """Show nothing."""
