"""One benchmark from its first request to its figures: every load, on one server or on two.

With two servers each load is put on them turn by turn, in rounds of at most two seconds: a
machine's speed drifts, and neighbours in time share the drift.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from beicli.bench.answers import AnswerComparison, compare_answers
from beicli.bench.batch_fill import batch_fill, read_batch_counts
from beicli.bench.client import Progress, RoundPlan, Session
from beicli.bench.loads import Load
from beicli.bench.measurement import Round
from beicli.bench.open_files import allow_connections
from beicli.bench.outcome import Outcome, SkippedPoint
from beicli.bench.preparation import fetch_answers, first_texts, make_texts, probe
from beicli.bench.processes import Clients, open_clients
from beicli.bench.report import PointMeasurement, nothing_succeeded
from beicli.bench.response import read_model_name
from beicli.bench.routes import Route
from beicli.bench.sender import Sender
from beicli.bench.settings import BenchSettings
from beicli.bench.shares import shares_of_load
from beicli.bench.texts import short_texts
from beicli.datasets import Dataset
from beicli.errors import BenchError

_ROUND_S = 2.0
_MIN_ROUNDS = 3
# A later round finds the server warm, and only has to fill its queue again.
_LATER_WARMUP_S = 0.5
_NUM_COMPARED_TEXTS = 64


@dataclass(frozen=True, slots=True)
class Stage:
    """What is being measured; server: its URL where there are two, else None."""

    load: str
    server: str | None
    round_number: int
    num_rounds: int


OnProgress = Callable[[Stage, Progress], None]


def run_bench(
    settings: BenchSettings,
    dataset: Dataset,
    *,
    on_progress: OnProgress = lambda _stage, _progress: None,
) -> Outcome:
    """Measure and return what was seen. Ctrl-C ends the measurement, not the report.

    Raises `BenchError` at once when the first request shows that none can succeed, and after the
    run when none did.
    """
    return asyncio.run(measure(settings, dataset, on_progress=on_progress))


async def measure(
    settings: BenchSettings,
    dataset: Dataset,
    *,
    on_progress: OnProgress = lambda _stage, _progress: None,
) -> Outcome:
    """Do the same within an event loop; cancelling it returns what was measured so far, once."""
    allow_connections(_most_connections(settings))
    session = Session(
        targets=settings.targets,
        route=Route.of(settings),
        timeout_s=settings.timeout_s,
        max_connections=max(
            settings.max_connections, *(load.concurrency or 1 for load in settings.loads), 1
        ),
    )
    bench = _Bench(settings, session, dataset, on_progress)
    async with AsyncExitStack() as stack:
        try:
            await bench.open(stack)
            await bench.measure_loads()
            await bench.compare_answers()
        except asyncio.CancelledError:
            # Ctrl-C between two rounds; within one, the round itself answers it.
            if task := asyncio.current_task():
                task.uncancel()
            bench.is_interrupted = True
    return bench.outcome()


def _most_connections(settings: BenchSettings) -> int:
    """Return how many one process may have open at once, at any of the loads."""
    most = max(load.concurrency or settings.max_connections for load in settings.loads)
    return len(settings.targets) * math.ceil(most / settings.client_processes)


class _Bench:
    """The state of one benchmark, owned by its event loop."""

    def __init__(
        self, settings: BenchSettings, session: Session, dataset: Dataset, on_progress: OnProgress
    ) -> None:
        self.is_interrupted = False
        self._settings = settings
        self._session = session
        self._dataset = dataset
        self._on_progress = on_progress
        self._senders: list[Sender] = []
        self._points: list[tuple[PointMeasurement, ...]] = []
        self._skipped: list[SkippedPoint] = []
        self._answers: AnswerComparison | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Reach every server, make the texts, start the client processes."""
        settings, dataset = self._settings, self._dataset
        for target in settings.targets:
            # A connection besides the measured ones, for whatever is no load.
            sender = Sender(
                target,
                self._session.route,
                max_connections=1,
                timeout_s=settings.timeout_s,
                query=short_texts(dataset)[0],
            )
            self._senders.append(await stack.enter_async_context(sender))
        for sender in self._senders:
            await probe(sender, dataset, batch_size=settings.batch_size)
            if sender.served_model is None:
                sender.served_model = read_model_name(await sender.page("/info"))
        self._texts = await make_texts(settings, dataset, self._senders[0])
        clients = open_clients(self._session, settings.client_processes)
        self._clients: Clients = await stack.enter_async_context(clients)

    async def measure_loads(self) -> None:
        """Measure one point after the other, until they are done or somebody interrupts."""
        for load in self._settings.loads:
            points = await self._measure_point(load)
            for sender, point in zip(self._senders, points, strict=False):
                if not point.tally().num_requests:
                    error = nothing_succeeded(point, point.tally())
                    self._skipped.append(SkippedPoint(load, sender.target.url, error))
                    break
            else:
                if len(points) == len(self._senders):
                    self._points.append(points)
            if self.is_interrupted:
                return

    async def compare_answers(self) -> None:
        """Send the same texts to both servers and compare what comes back."""
        if len(self._senders) == 1 or self.is_interrupted or not self._points:
            return
        texts = first_texts(self._texts.dataset, _NUM_COMPARED_TEXTS)
        workload = self._settings.workload
        try:
            pairs = await fetch_answers(self._senders, texts, batch_size=self._settings.batch_size)
        except BenchError as error:
            # The figures are there already, and one refused text is no reason to lose them.
            self._answers = AnswerComparison(workload=workload, finding=error.message)
        else:
            self._answers = compare_answers(workload, texts, pairs)

    def outcome(self) -> Outcome:
        """Return what was measured; raises `BenchError` when that is nothing."""
        if not self._points:
            if self._skipped:
                raise self._skipped[0].error
            raise BenchError("interrupted before a request was measured")
        return Outcome(
            settings=self._settings,
            texts=self._texts,
            points=tuple(self._points),
            skipped=tuple(self._skipped),
            served_models=tuple(sender.served_model for sender in self._senders),
            answers=self._answers,
            is_interrupted=self.is_interrupted,
        )

    async def _measure_point(self, load: Load) -> tuple[PointMeasurement, ...]:
        """Measure one load on every server, turn by turn."""
        settings = self._settings
        self._clients.take_shares(
            shares_of_load(load, settings, self._texts, self._clients.num_processes)
        )
        before = [read_batch_counts(await sender.page("/metrics")) for sender in self._senders]
        rounds: list[list[Round]] = [[] for _ in self._senders]
        num_rounds = 1
        if len(self._senders) > 1:
            num_rounds = max(math.ceil(settings.duration_s / _ROUND_S), _MIN_ROUNDS)
        for number in range(num_rounds):
            for server in range(len(self._senders)):
                if not self.is_interrupted:
                    stage = self._stage(load, server, number, num_rounds)
                    rounds[server].append(await self._measure_round(stage, server, rounds[server]))
        after = [read_batch_counts(await sender.page("/metrics")) for sender in self._senders]
        return tuple(
            PointMeasurement(
                load=load,
                batch_size=settings.batch_size,
                rounds=tuple(measured),
                batch_fill=batch_fill(*counts),
            )
            for measured, counts in zip(rounds, zip(before, after, strict=True), strict=True)
            if measured
        )

    async def _measure_round(self, stage: Stage, server: int, earlier: Sequence[Round]) -> Round:
        settings = self._settings
        window_s = settings.duration_s / stage.num_rounds
        warmup_s = min(settings.warmup_s, _LATER_WARMUP_S) if earlier else settings.warmup_s
        start_s = time.perf_counter() + self._clients.start_delay_s
        plan = RoundPlan(
            server=server,
            number=stage.round_number,
            start_s=start_s,
            window_start_s=start_s + warmup_s,
            window_end_s=start_s + warmup_s + window_s,
            seconds_before=sum(each.window_s for each in earlier),
        )
        measured = await self._clients.run_round(
            plan, lambda progress: self._on_progress(stage, progress)
        )
        sender = self._senders[server]
        sender.served_model = sender.served_model or measured.served_model
        self.is_interrupted = measured.is_interrupted
        return measured

    def _stage(self, load: Load, server: int, number: int, num_rounds: int) -> Stage:
        url = self._senders[server].target.url if len(self._senders) > 1 else None
        return Stage(load.label, url, number, num_rounds)
