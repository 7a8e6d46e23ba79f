"""Who runs next: requests wait in the queue, slot threads take batches from it.

State and its owner: the queue is touched only under `_state_changed`, held for microseconds; a
request's rows are written by the slot thread that computed them, everything else of a request by
the event loop. A slot's thread takes its next batch itself, so the engine never waits for the
loop; the loop hears of a finished batch by one `call_soon_threadsafe`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from beicli.engine.base import Engine
from beicli.engine.batch import Batch, EngineOutput, Float32, TokenSequence
from beicli.errors import BeiError, EngineError, UnhealthyError
from beicli.scheduler.queue import BatchLimits, QueuedSequence, SequenceQueue

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
    """

    num_sequences: int
    num_tokens: int
    num_padded_tokens: int
    inference_s: float


@dataclass(slots=True, eq=False)
class _Request:
    """One caller's sequences and what has come back of them."""

    sequences: Sequence[TokenSequence]
    needs_tokens: bool
    done: "asyncio.Future[None]"
    submitted_at: float
    rows: list[Float32 | None] = field(default_factory=list)
    num_missing: int = 0
    queue_s: float = 0.0
    inference_s: float = 0.0
    error: BeiError | None = None
    abandoned: bool = False

    @property
    def cancelled(self) -> bool:
        # After one sequence failed the rest of its request is wasted work.
        return self.abandoned or self.error is not None


_Entries = list[QueuedSequence[_Request]]


class BatchScheduler:
    """Runs an engine's slots over one queue; made and used on one event loop."""

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits,
        *,
        on_batch: Callable[[FinishedBatch], None] | None = None,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._queue: SequenceQueue[_Request] = SequenceQueue(limits)
        self._state_changed = threading.Condition()
        self._num_idle_slots = 0
        self._closing = False
        self._forward_started_at: dict[int, float] = {}
        self._last_forward_at: float | None = None
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
    def num_waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._queue)

    def stalled_for_s(self) -> float:
        """How long the slowest running forward pass has been at it; infinite if a slot died."""
        if not self._closing and not all(thread.is_alive() for thread in self._threads):
            return float("inf")
        started = list(self._forward_started_at.values())
        return time.monotonic() - min(started) if started else 0.0

    def last_forward_age_s(self) -> float:
        """Seconds since a forward pass last succeeded; infinite before the first."""
        at = self._last_forward_at
        return float("inf") if at is None else time.monotonic() - at

    async def submit(
        self, sequences: Sequence[TokenSequence], *, needs_tokens: bool = False
    ) -> ForwardResult:
        """Queue a request's sequences and wait for all their outputs.

        needs_tokens: wait for the output of every token, not for that of each sequence.
        Cancelling the awaiting task takes what still waits out of the queue.
        Raises EngineError if a sequence cannot be computed, UnhealthyError while closing, and
        ValueError if a sequence is empty or above the token limit.
        """
        request = _Request(sequences, needs_tokens, self._loop.create_future(), time.monotonic())
        request.rows = [None] * len(sequences)
        request.num_missing = len(sequences)
        entries = [QueuedSequence(request, row, len(ids)) for row, ids in enumerate(sequences)]
        with self._state_changed:
            if self._closing:
                raise UnhealthyError("the server is shutting down")
            self._queue.push(entries)
            self._state_changed.notify(len(entries))
        try:
            await request.done
        finally:
            request.abandoned = True
            if request.done.done() and not request.done.cancelled():
                # A caller cancelled in the moment its request failed never looks at the failure,
                # and asyncio would complain of that.
                request.done.exception()
        outputs = [row for row in request.rows if row is not None]
        assert len(outputs) == len(sequences), "a finished request misses rows; this is a bug"
        num = len(sequences)
        return ForwardResult(outputs, request.queue_s / num, request.inference_s / num)

    def close(self) -> None:
        """Refuse new requests, finish those in the queue, end the threads and free the engine."""
        with self._state_changed:
            self._closing = True
            self._state_changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._engine.close()

    def _run_slot(self, slot: int) -> None:
        while entries := self._next_batch():
            started_at = time.monotonic()
            self._forward_started_at[slot] = started_at
            self._run_batch(entries)
            del self._forward_started_at[slot]
            try:
                self._loop.call_soon_threadsafe(self._finish, entries, started_at, time.monotonic())
            except RuntimeError:
                # The loop is closed, and with it everyone who waited.
                logger.warning("the event loop closed while a batch was running")

    def _next_batch(self) -> _Entries:
        """Wait for work; empty when there is none and none will come."""
        with self._state_changed:
            self._num_idle_slots += 1
            try:
                while True:
                    entries = self._queue.take_batch(num_free_slots=self._num_idle_slots)
                    if entries or self._closing:
                        return entries
                    self._state_changed.wait()
            finally:
                self._num_idle_slots -= 1

    def _run_batch(self, entries: _Entries) -> None:
        """Compute `entries` and store rows or errors; a failing batch is split in half.

        So a poisonous input ends up alone and its batch mates still get their answers.
        """
        try:
            batch = Batch.from_sequences(
                [entry.request.sequences[entry.row] for entry in entries],
                needs_tokens=any(entry.request.needs_tokens for entry in entries),
            )
            rows = _rows(entries, batch, self._engine.forward(batch))
        except Exception as error:  # noqa: BLE001 - the boundary to a foreign runtime
            self._split_or_fail(entries, error)
            return
        self._last_forward_at = time.monotonic()
        for entry, row in zip(entries, rows, strict=True):
            if np.isfinite(row).all():
                entry.request.rows[entry.row] = row
            else:
                entry.request.error = EngineError(
                    f"the model returned numbers that are not finite for input {entry.row}"
                )

    def _split_or_fail(self, entries: _Entries, error: Exception) -> None:
        if len(entries) > 1:
            middle = len(entries) // 2
            self._run_batch(entries[:middle])
            self._run_batch(entries[middle:])
            return
        logger.error("forward pass failed for one sequence", exc_info=error)
        failure = EngineError(
            f"the engine could not compute input {entries[0].row}: {type(error).__name__}",
            hint="the server's log has the details",
        )
        failure.__cause__ = error
        entries[0].request.error = failure

    def _finish(self, entries: _Entries, started_at: float, finished_at: float) -> None:
        """On the event loop: account for a finished batch and wake whoever is complete."""
        inference_s = finished_at - started_at
        for entry in entries:
            request = entry.request
            request.num_missing -= 1
            request.queue_s += started_at - request.submitted_at
            request.inference_s += inference_s
            if request.done.done():
                continue
            if request.error is not None:
                request.done.set_exception(request.error)
            elif request.num_missing == 0:
                request.done.set_result(None)
        if self._on_batch is not None:
            lengths = [entry.num_tokens for entry in entries]
            self._on_batch(
                FinishedBatch(
                    num_sequences=len(entries),
                    num_tokens=sum(lengths),
                    num_padded_tokens=max(lengths) * len(entries),
                    inference_s=inference_s,
                )
            )


def _rows(entries: _Entries, batch: Batch, output: EngineOutput) -> list[Float32]:
    """Give each entry its part of the output, of its tokens or of itself.

    Requests that want the one and requests that want the other may share a batch.
    """
    starts = batch.cu_seqlens
    rows = []
    for index, entry in enumerate(entries):
        source = output.tokens if entry.request.needs_tokens else output.pooled
        assert source is not None, "the pipeline asks for what the engine has"
        needs_tokens = entry.request.needs_tokens
        rows.append(source[starts[index] : starts[index + 1]] if needs_tokens else source[index])
    return rows
