"""The scheduler with its threads, whose callers stay, leave, send poison, or find it closing."""

import asyncio
import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beicli.engine.batch import Batch, EngineOutput, TokenSequence
from beicli.errors import EngineError, UnhealthyError
from beicli.scheduler.queue import BatchLimits
from beicli.scheduler.scheduler import BatchScheduler, ForwardResult

LIMITS = BatchLimits(max_num_tokens=128, max_batch_size=8, preferred_num_tokens=32)
# First tokens with a meaning of their own.
RAISES, NOT_FINITE = 90, 91
TIMEOUT_S = 30.0

sequences = st.tuples(
    st.integers(0, 40) | st.sampled_from([RAISES, NOT_FINITE]), st.integers(1, 40)
)
requests = st.lists(st.lists(sequences, min_size=1, max_size=5), min_size=1, max_size=12)


class Engine:
    """Answers with first token and length; waits for `gate` first; counts what it was given."""

    preferred_num_tokens = 32

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.gate = threading.Event()
        self.given: list[tuple[int, int]] = []
        self.largest = (0, 0)

    def padded_length(self, num_tokens: int) -> int:
        return num_tokens

    def forward(self, batch: Batch) -> EngineOutput:
        self.gate.wait(TIMEOUT_S)
        parts = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        keys = [(int(part[0]), len(part)) for part in parts]
        self.given += keys
        self.largest = max(self.largest, (batch.longest * len(parts), len(parts)))
        if any(first == RAISES for first, _ in keys):
            raise RuntimeError("no")
        rows = np.array(keys, dtype=np.float32)
        rows[rows[:, 0] == NOT_FINITE] = np.nan
        return EngineOutput(rows)

    def close(self) -> None:
        pass


def sequence(key: tuple[int, int]) -> TokenSequence:
    return TokenSequence(np.full(key[1], key[0], dtype=np.int32))


async def ask(scheduler: BatchScheduler, keys: list[tuple[int, int]]) -> ForwardResult:
    return await scheduler.submit([sequence(key) for key in keys])


def check(keys: list[tuple[int, int]], answer: ForwardResult | BaseException) -> None:
    """See that a caller who stayed got its own rows, or the error that one of them earns."""
    is_bad = any(first in {RAISES, NOT_FINITE} for first, _ in keys)
    if is_bad:
        assert isinstance(answer, EngineError)
    else:
        assert isinstance(answer, ForwardResult)
        assert [tuple(row) for row in answer.outputs] == keys


@settings(max_examples=50)
@given(asked=requests, leaving=st.sets(st.integers(0, 11)), num_slots=st.integers(1, 3))
def test_whoever_stays_is_answered_once_and_what_was_given_up_is_never_computed(
    asked: list[list[tuple[int, int]]], leaving: set[int], num_slots: int
) -> None:
    engine = Engine(num_slots)

    async def run() -> None:
        scheduler = BatchScheduler(engine, LIMITS)
        # Every slot has something to do, so that all of the rest waits.
        first = [asyncio.create_task(ask(scheduler, [(50 + i, 32)])) for i in range(num_slots)]
        while scheduler.num_waiting or scheduler.stalled_for_s() == 0:  # noqa: ASYNC110 - threads
            await asyncio.sleep(0)
        tasks = [asyncio.create_task(ask(scheduler, keys)) for keys in asked]
        await asyncio.sleep(0)
        for number in leaving & set(range(len(tasks))):
            tasks[number].cancel()
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(*first)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(scheduler.close)
        for number, (keys, answer) in enumerate(zip(asked, answers, strict=True)):
            if number in leaving:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                check(keys, answer)

    asyncio.run(run())

    wanted = {key for i, keys in enumerate(asked) if i not in leaving for key in keys}
    computed = [key for key in engine.given if key[0] < 50]
    assert set(computed) <= wanted
    assert engine.largest[0] <= LIMITS.max_num_tokens
    if not any(first >= RAISES for first, _ in wanted):
        # Without a batch that had to be split, nothing was computed twice either.
        assert len(computed) == len(set(computed))


@settings(max_examples=40)
@given(asked=requests, num_before=st.integers(0, 12), num_slots=st.integers(1, 3))
def test_a_close_at_any_moment_leaves_nobody_without_an_answer(
    asked: list[list[tuple[int, int]]], num_before: int, num_slots: int
) -> None:
    engine = Engine(num_slots)
    engine.gate.set()

    async def run() -> None:
        scheduler = BatchScheduler(engine, LIMITS)
        tasks = [asyncio.create_task(ask(scheduler, keys)) for keys in asked[:num_before]]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
        tasks += [asyncio.create_task(ask(scheduler, keys)) for keys in asked[num_before:]]
        async with asyncio.timeout(TIMEOUT_S):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            await closing
        for number, (keys, answer) in enumerate(zip(asked, answers, strict=True)):
            # Only who came after the close may be turned away.
            if number >= num_before and isinstance(answer, UnhealthyError):
                continue
            check(keys, answer)

    asyncio.run(run())
