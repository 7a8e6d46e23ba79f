"""Who runs next: work waits in the queue, slot threads take batches from it.

State and its owner: the queue is touched only under `_state_changed`, held for microseconds; who
waits for what is the event loop's (`requests.py`). A slot's thread takes its next batch itself, so
the engine never waits for the loop; the loop hears of a finished batch by one
`call_soon_threadsafe`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from beicli.engine.base import Engine
from beicli.engine.batch import Batch, Float32, TokenSequence
from beicli.errors import EngineLostError, UnhealthyError
from beicli.scheduler.admission import AdmissionLimits, QueueState, check_deadline, check_limits
from beicli.scheduler.cost import CostModel, Workload
from beicli.scheduler.lanes import Lanes
from beicli.scheduler.outputs import Computed, not_finite, rows_of
from beicli.scheduler.queue import BatchLimits
from beicli.scheduler.requests import NotFiniteError, Request, Requests, Work
from beicli.scheduler.slots import SlotTimes
from beicli.scheduler.terms import NO_TERMS, Priority, Terms

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ForwardResult:
    """What became of one request.

    outputs: of each sequence in the order they were submitted its row, [dimension], or, where
        tokens were asked for, [num_tokens, dimension].
    queue_s, inference_s: waiting and computing time, means over the sequences.
    """

    outputs: list[Float32]
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """What observers learn of one forward pass.

    num_tokens counts real tokens, num_padded_tokens what was computed.
    estimated_s: how long it was believed to take beforehand; None while nobody knew.
    """

    num_sequences: int
    num_tokens: int
    num_padded_tokens: int
    inference_s: float
    estimated_s: float | None = None


class BatchScheduler:
    """Runs an engine's slots over one queue; made and used on one event loop.

    Equal sequences are computed once, also when they come with different requests: whoever brings
    one that waits or is being computed gets its row, or its error.
    """

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits,
        *,
        on_batch: Callable[[FinishedBatch], None] | None = None,
        admission: AdmissionLimits = AdmissionLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._admission = admission
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._queue: Lanes[Work] = Lanes(limits)
        self._requests = Requests(engine.padded_length)
        self._costs = CostModel()
        self._state_changed = threading.Condition()
        self._num_idle_slots = 0
        self._closing = False
        self._slot_times = SlotTimes(engine.num_slots)
        self._last_forward_at: float | None = None
        self._lost: EngineLostError | None = None
        self._threads = [
            threading.Thread(
                target=self._run_slot, args=(slot,), name=f"bei-slot-{slot}", daemon=True
            )
            for slot in range(engine.num_slots)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def limits(self) -> BatchLimits:
        return self._limits

    @property
    def num_slots(self) -> int:
        return self._engine.num_slots

    @property
    def num_waiting(self) -> int:
        """Distinct sequences in the queue."""
        return len(self._queue)

    def estimated_wait_s(self, priority: Priority = Priority.BULK) -> float | None:
        """How long until new work of this priority is begun; None while that is not known yet."""
        ahead, share = self._queue.work_ahead_of(priority)
        if ahead.num_tokens == 0:
            return 0.0
        computing_s = self._costs.estimate_s(ahead)
        return None if computing_s is None else computing_s / self._engine.num_slots / share

    def queue_state(self, priority: Priority = Priority.BULK) -> QueueState:
        """What waits, as new work of this priority finds it."""
        # While a slot cuts a batch a part of the queue is in its hands.
        with self._state_changed:
            return QueueState(
                num_sequences=len(self._queue),
                num_tokens=self._queue.num_tokens,
                priority=priority,
                wait_s=self.estimated_wait_s(priority),
            )

    def check_admission(self, terms: Terms) -> None:
        """Raise OverloadedError where the smallest request on these terms would be refused."""
        queue = self.queue_state(terms.priority or Priority.INTERACTIVE)
        check_limits(queue, 0, self._admission)
        check_deadline(queue, 0.0, terms.deadline - time.monotonic())

    @property
    def lost(self) -> EngineLostError | None:
        """Why the engine can compute nothing more; None while it can."""
        return self._lost

    def stalled_for_s(self) -> float:
        """How long the slowest running forward pass has been at it.

        Infinite if a slot died, or the engine is lost.
        """
        if self._lost is not None:
            return float("inf")
        if not self._closing and not all(thread.is_alive() for thread in self._threads):
            return float("inf")
        return self._slot_times.longest_running_s()

    def busy_s(self) -> float:
        """Return computing time of all slots so far, running batches included."""
        return self._slot_times.busy_s()

    def last_forward_age_s(self) -> float:
        """Seconds since a forward pass last succeeded; infinite before the first."""
        at = self._last_forward_at
        return float("inf") if at is None else time.monotonic() - at

    async def submit(
        self,
        sequences: Sequence[TokenSequence],
        *,
        needs_tokens: bool = False,
        terms: Terms = NO_TERMS,
    ) -> ForwardResult:
        """Queue a request's sequences and wait for all their outputs.

        needs_tokens: wait for the output of every token, not for that of each sequence.
        terms: without a priority a request of more tokens than one batch takes is bulk work.
        Rows may be shared with other callers, and must not be written to.
        Cancelling the awaiting task takes what nobody else waits for out of the queue.
        Raises EngineError if a sequence cannot be computed, OverloadedError if too much waits or
        the deadline comes too soon, DeadlineExceededError if it came while the request waited,
        UnhealthyError while closing and once the engine is lost, and ValueError if a sequence is
        empty or above the token limit.
        """
        num = len(sequences)
        lengths = [self._engine.padded_length(len(sequence)) for sequence in sequences]
        for length in lengths:
            self._limits.check_length(length)
        request = self._admit(lengths, terms)
        fresh = self._requests.join(request, sequences, needs_tokens=needs_tokens)
        try:
            try:
                self._push(fresh, request.priority)
            except UnhealthyError as error:
                self._requests.abandon(fresh, error)
            await request.done
        finally:
            self._requests.leave(request)
            if request.done.done() and not request.done.cancelled():
                # A caller cancelled in the moment its request failed never looks at the failure,
                # and asyncio would complain of that.
                request.done.exception()
        outputs = [row for row in request.rows if row is not None]
        assert len(outputs) == num, "a finished request misses rows; this is a bug"
        return ForwardResult(outputs, request.queue_s / num, request.inference_s / num)

    def _admit(self, lengths: Sequence[int], terms: Terms) -> Request:
        """Return the request of inputs of such lengths, or raise OverloadedError."""
        num_tokens = sum(lengths)
        is_large = num_tokens > self._limits.preferred_num_tokens
        priority = terms.priority or (Priority.BULK if is_large else Priority.INTERACTIVE)
        queue, now = self.queue_state(priority), time.monotonic()
        check_limits(queue, num_tokens, self._admission)
        request = Request(self._loop.create_future(), now, [None] * len(lengths), priority)
        if terms.deadline < float("inf") and lengths:
            whole_s = self._costs.estimate_s(Workload.of_sequences(lengths)) or 0.0
            longest_s = self._costs.estimate_s(Workload.of_batch([max(lengths)])) or 0.0
            # A sequence is computed in one slot, however many there are.
            computing_s = max(whole_s / self._engine.num_slots, longest_s)
            check_deadline(queue, computing_s, terms.deadline - now)
            request.latest_start_at = terms.deadline - longest_s
        return request

    def close(self) -> None:
        """Refuse new requests, finish those in the queue, end the threads and free the engine."""
        with self._state_changed:
            self._closing = True
            self._state_changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._engine.close()

    def _push(self, work: list[Work], priority: Priority) -> None:
        with self._state_changed:
            if self._closing:
                raise UnhealthyError("the server is shutting down")
            self._queue.push(work, priority)
            self._state_changed.notify(len(work))

    def _run_slot(self, slot: int) -> None:
        times, num_slots = self._slot_times, self._engine.num_slots
        while work := self._next_batch():
            started_at = time.monotonic()
            times.begin(slot, started_at)
            # Batches share caches and memory with those of other slots. How they are cut matters
            # when there are many, and then all slots are busy.
            is_typical = times.num_running == num_slots
            is_typical = self._run_batch(work) and is_typical
            is_typical = is_typical and times.num_running == num_slots
            finished_at = time.monotonic()
            times.end(slot, finished_at)
            self._tell_loop(
                partial(self._finish, Computed(work, started_at, finished_at, is_typical))
            )

    def _next_batch(self) -> list[Work]:
        """Wait for work; empty when there is none and none will come."""
        with self._state_changed:
            self._num_idle_slots += 1
            try:
                while True:
                    now = time.monotonic()
                    work = self._queue.take_batch(num_free_slots=self._num_idle_slots, now=now)
                    for item in work:
                        item.is_running = True
                    if expired := self._queue.take_expired():
                        self._tell_loop(partial(self._expire, expired, now))
                    if work or self._closing:
                        return work
                    self._state_changed.wait()
            finally:
                self._num_idle_slots -= 1

    def _tell_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop is closed, and with it everyone who waited.
            logger.warning("the event loop closed while a batch was running")

    def _expire(self, expired: list[Work], now: float) -> None:
        """On the event loop: fail those whose time is over; others may have joined meanwhile."""
        for work in self._requests.expire(expired, now=now):
            try:
                self._push([work], work.priority)
            except UnhealthyError as error:
                work.failure = error
                self._requests.finish([work], started_at=now, finished_at=now)

    def _run_batch(self, work: list[Work]) -> bool:
        """Compute `work` and store rows or failures; a failing batch is split in half.

        So a poisonous input ends up alone and its batch mates still get their answers.
        Returns whether the batch was computed as it is.
        """
        try:
            batch = Batch.from_sequences(
                [item.sequence for item in work],
                needs_tokens=any(item.needs_tokens for item in work),
            )
            output = self._engine.forward(batch)
            rows = rows_of(work, batch, output)
        except Exception as error:  # noqa: BLE001 - the boundary to a foreign runtime
            self._split_or_fail(work, error)
            return False
        self._last_forward_at = time.monotonic()
        for item, row in zip(work, rows, strict=True):
            item.row = row
        if bad := not_finite(work, output):
            # With several, one of them may have spoilt the others.
            self._split_or_fail(bad, NotFiniteError("the numbers are not finite"))
            return False
        return True

    def _split_or_fail(self, work: list[Work], error: Exception) -> None:
        if isinstance(error, EngineLostError):
            # Not the fault of any input, so there is nothing to find by splitting.
            self._lost = self._lost or error
            for item in work:
                item.failure = error
            return
        if len(work) > 1:
            middle = len(work) // 2
            self._run_batch(work[:middle])
            self._run_batch(work[middle:])
            return
        logger.error("forward pass failed for one sequence", exc_info=error)
        work[0].failure = error

    def _finish(self, computed: Computed) -> None:
        """On the event loop: account for a finished batch and wake whoever is complete."""
        self._requests.finish(
            computed.work, started_at=computed.started_at, finished_at=computed.finished_at
        )
        lengths = [item.num_tokens for item in computed.work]
        padded = Workload.of_batch(lengths)
        inference_s = computed.finished_at - computed.started_at
        # Before the model learns from this very batch.
        estimated_s = self._costs.estimate_s(padded)
        if computed.is_typical:
            self._costs.observe(padded, inference_s)
            self._queue.cost = self._costs.cost
        if self._on_batch is not None:
            self._on_batch(
                FinishedBatch(
                    num_sequences=len(lengths),
                    num_tokens=sum(len(item.sequence) for item in computed.work),
                    num_padded_tokens=padded.num_tokens,
                    inference_s=inference_s,
                    estimated_s=estimated_s,
                )
            )
