import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beicli.engine.batch import Batch, EngineOutput, TokenSequence
from beicli.errors import (
    DeadlineExceededError,
    DeadlineTooSoonError,
    EngineError,
    EngineLostError,
    QueueFullError,
    UnhealthyError,
)
from beicli.scheduler.admission import AdmissionLimits
from beicli.scheduler.cost import MIN_OBSERVED_BATCHES, REFIT_AFTER_BATCHES, Workload
from beicli.scheduler.queue import BatchLimits
from beicli.scheduler.scheduler import BatchScheduler, FinishedBatch, ForwardResult
from beicli.scheduler.terms import Priority, Terms

LIMITS = BatchLimits(max_num_tokens=256, max_batch_size=16, preferred_num_tokens=64)
POISON = 666
NOT_A_NUMBER = 777


class FakeEngine:
    """Answers each sequence with its first token id and its length."""

    preferred_num_tokens = 64

    def __init__(self, num_slots: int = 2) -> None:
        self.num_slots = num_slots
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.closed = False

    def padded_length(self, num_tokens: int) -> int:
        return num_tokens

    def forward(self, batch: Batch) -> EngineOutput:
        self.gate.wait(10)
        parts = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        self.batches.append([int(part[0]) for part in parts])
        if any(POISON in part for part in parts):
            raise RuntimeError("cannot compute 666")
        rows = [[part[0], len(part)] for part in parts]
        pooled = np.array(rows, dtype=np.float32)
        pooled[pooled[:, 0] == NOT_A_NUMBER] = np.nan
        return EngineOutput(pooled)

    def close(self) -> None:
        self.closed = True


def ids(first: int, length: int = 4) -> TokenSequence:
    return TokenSequence(np.full(length, first, dtype=np.int32))


def run(
    engine: FakeEngine,
    scenario: Callable[[BatchScheduler], Awaitable[None]],
    on_batch: Callable[[FinishedBatch], None] | None = None,
    admission: AdmissionLimits | None = None,
) -> None:
    async def main() -> None:
        scheduler = BatchScheduler(
            engine, LIMITS, on_batch=on_batch, admission=admission or AdmissionLimits()
        )
        try:
            await scenario(scheduler)
        finally:
            engine.gate.set()
            scheduler.close()

    asyncio.run(main())


async def first_values(scheduler: BatchScheduler, sequences: Sequence[TokenSequence]) -> list[int]:
    result = await scheduler.submit(sequences)
    return [int(row[0]) for row in result.outputs]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited five seconds in vain"
        await asyncio.sleep(0.001)


def test_rows_come_back_in_the_order_of_the_request() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        lengths = [3, 60, 1, 30, 2, 64, 7]
        result = await scheduler.submit([ids(i, n) for i, n in enumerate(lengths)])
        assert [row.tolist() for row in result.outputs] == [[i, n] for i, n in enumerate(lengths)]

    run(FakeEngine(), scenario)


def test_two_thousand_concurrent_requests_each_get_their_own_rows() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        async def one(i: int) -> bool:
            return await first_values(scheduler, [ids(1000 + i, 1 + i % 40)]) == [1000 + i]

        assert all(await asyncio.gather(*[one(i) for i in range(2000)]))

    run(FakeEngine(), scenario)


def test_a_poisonous_input_fails_alone_and_its_batch_mates_get_their_answers() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        good = [first_values(scheduler, [ids(i)]) for i in range(5)]
        answers = await asyncio.gather(
            *good, scheduler.submit([ids(POISON)]), return_exceptions=True
        )
        assert answers[:5] == [[i] for i in range(5)]
        assert isinstance(answers[5], EngineError)
        assert answers[5].message == "the engine could not compute input 0: RuntimeError"

    run(FakeEngine(), scenario)


def test_a_lost_engine_fails_everybody_at_once_and_says_so() -> None:
    engine = LostEngine()

    async def scenario(scheduler: BatchScheduler) -> None:
        assert scheduler.lost is None
        answers = await asyncio.gather(
            *(scheduler.submit([ids(i), ids(i + 1)]) for i in range(0, 20, 2)),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} == {UnhealthyError}
        assert scheduler.lost is not None
        assert scheduler.stalled_for_s() == float("inf")

    run(engine, scenario)
    # No batch was split to look for whoever was at fault.
    assert engine.num_forwards <= 20


class LostEngine(FakeEngine):
    """Has a GPU that is gone."""

    num_forwards = 0

    def forward(self, _batch: Batch) -> EngineOutput:
        self.num_forwards += 1
        raise EngineLostError("an illegal address was read")


def test_one_bad_input_fails_its_whole_request_with_its_index() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        with pytest.raises(EngineError, match="input 2"):
            await scheduler.submit([ids(1), ids(2), ids(POISON), ids(3)])

    run(FakeEngine(), scenario)


def test_not_a_number_is_an_error_and_not_an_answer() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        answers = await asyncio.gather(
            scheduler.submit([ids(NOT_A_NUMBER)]),
            first_values(scheduler, [ids(5)]),
            return_exceptions=True,
        )
        assert isinstance(answers[0], EngineError)
        assert "not finite" in answers[0].message
        assert answers[1] == [5]

    run(FakeEngine(num_slots=1), scenario)


class SpoiltBatches(FakeEngine):
    """Of a batch that holds one number too large every row is spoilt."""

    def forward(self, batch: Batch) -> EngineOutput:
        output = super().forward(batch)
        assert output.pooled is not None
        if np.isnan(output.pooled).any():
            output.pooled[:] = np.nan
        return output


def test_an_input_that_spoils_its_whole_batch_fails_alone() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        good = [first_values(scheduler, [ids(i)]) for i in range(7)]
        answers = await asyncio.gather(
            *good, scheduler.submit([ids(NOT_A_NUMBER)]), return_exceptions=True
        )
        assert answers[:7] == [[i] for i in range(7)]
        assert isinstance(answers[7], EngineError)
        assert "not finite" in answers[7].message

    run(SpoiltBatches(num_slots=1), scenario)


def test_a_cancelled_request_is_taken_out_of_the_queue() -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()

    async def scenario(scheduler: BatchScheduler) -> None:
        running = asyncio.create_task(first_values(scheduler, [ids(1)]))
        await until(lambda: scheduler.stalled_for_s() > 0)
        waiting = asyncio.create_task(first_values(scheduler, [ids(2)]))
        await until(lambda: scheduler.num_waiting == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        engine.gate.set()
        assert await running == [1]
        assert await first_values(scheduler, [ids(3)]) == [3]

    run(engine, scenario)

    assert engine.batches == [[1], [3]]


def test_batches_fill_while_slots_are_busy() -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()

    async def scenario(scheduler: BatchScheduler) -> None:
        tasks = [asyncio.create_task(first_values(scheduler, [ids(0)]))]
        await until(lambda: scheduler.stalled_for_s() > 0)
        tasks += [asyncio.create_task(first_values(scheduler, [ids(i)])) for i in range(1, 9)]
        await until(lambda: scheduler.num_waiting == 8)
        engine.gate.set()
        await asyncio.gather(*tasks)

    run(engine, scenario)

    assert engine.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8]]


def test_slots_run_at_the_same_time() -> None:
    engine = FakeEngine(num_slots=2)
    engine.gate.clear()

    async def scenario(scheduler: BatchScheduler) -> None:
        tasks = [asyncio.create_task(first_values(scheduler, [ids(i, 64)])) for i in range(2)]
        await until(lambda: scheduler.num_waiting == 0 and scheduler.stalled_for_s() > 0)
        engine.gate.set()
        await asyncio.gather(*tasks)

    run(engine, scenario)

    assert sorted(engine.batches) == [[0], [1]]


def test_closing_finishes_what_is_queued_and_then_frees_the_engine() -> None:
    engine = FakeEngine(num_slots=1)

    async def main() -> list[int]:
        scheduler = BatchScheduler(engine, LIMITS)
        task = asyncio.create_task(first_values(scheduler, [ids(i, 64) for i in range(5)]))
        await until(lambda: bool(engine.batches) or scheduler.num_waiting > 0)
        await asyncio.to_thread(scheduler.close)
        with pytest.raises(UnhealthyError, match="shutting down"):
            await scheduler.submit([ids(9)])
        return await task

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]
    assert engine.closed


def test_the_heartbeat_grows_while_a_forward_pass_hangs_and_rests_when_idle() -> None:
    engine = FakeEngine(num_slots=1)

    async def scenario(scheduler: BatchScheduler) -> None:
        assert scheduler.stalled_for_s() == 0
        assert scheduler.last_forward_age_s() == float("inf")
        engine.gate.clear()
        task = asyncio.create_task(scheduler.submit([ids(1)]))
        await until(lambda: scheduler.stalled_for_s() > 0.02)
        engine.gate.set()
        await task
        await until(lambda: scheduler.stalled_for_s() == 0)
        assert scheduler.last_forward_age_s() < 5

    run(engine, scenario)


def test_an_overlong_sequence_is_refused_at_the_door() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        with pytest.raises(ValueError, match="257 tokens"):
            await scheduler.submit([ids(1, 257)])

    run(FakeEngine(), scenario)


def test_observers_learn_of_padding() -> None:
    seen: list[FinishedBatch] = []

    async def scenario(scheduler: BatchScheduler) -> None:
        await scheduler.submit([ids(1, 10), ids(2, 12)])
        await until(lambda: bool(seen))

    run(FakeEngine(num_slots=1), scenario, on_batch=seen.append)

    assert [(b.num_sequences, b.num_tokens, b.num_padded_tokens) for b in seen] == [(2, 22, 24)]
    assert seen[0].inference_s >= 0


def test_observers_learn_what_a_batch_was_believed_to_take() -> None:
    seen: list[FinishedBatch] = []

    async def scenario(scheduler: BatchScheduler) -> None:
        for i in range(MIN_OBSERVED_BATCHES + 1):
            await scheduler.submit([ids(i, 1 + i % 60)])
        await until(lambda: len(seen) > MIN_OBSERVED_BATCHES)

    run(FakeEngine(num_slots=1), scenario, on_batch=seen.append)

    estimates = [batch.estimated_s for batch in seen]
    assert estimates[:MIN_OBSERVED_BATCHES] == [None] * MIN_OBSERVED_BATCHES
    assert estimates[MIN_OBSERVED_BATCHES] is not None


def test_an_input_that_waits_or_runs_for_another_request_is_computed_once() -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()

    async def scenario(scheduler: BatchScheduler) -> None:
        running = asyncio.create_task(first_values(scheduler, [ids(1)]))
        await until(lambda: scheduler.stalled_for_s() > 0)
        joined = [
            asyncio.create_task(first_values(scheduler, [ids(1), ids(2), ids(2)])) for _ in range(3)
        ]
        await until(lambda: scheduler.num_waiting == 1)
        joined[0].cancel()
        engine.gate.set()
        assert await running == [1]
        assert await asyncio.gather(*joined[1:]) == [[1, 2, 2]] * 2

    run(engine, scenario)

    assert engine.batches == [[1], [2]]


def test_rows_cannot_be_written_to_since_others_may_have_them() -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        result = await scheduler.submit([ids(1)])
        with pytest.raises(ValueError, match="read-only"):
            result.outputs[0][0] = 5

    run(FakeEngine(), scenario)


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 3)),
        max_size=12,
    ),
    num_slots=st.integers(1, 3),
)
def test_callers_that_come_and_go_while_slots_run_get_their_own_rows(
    requests: list[tuple[list[int], int]], num_slots: int
) -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        tasks = []
        for numbers, patience in requests:
            tasks.append(
                asyncio.create_task(first_values(scheduler, [ids(i, i + 1) for i in numbers]))
            )
            for _ in range(patience):
                await asyncio.sleep(0)
            if patience == 2:
                tasks[-1].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for (numbers, patience), answer in zip(requests, answers, strict=True):
            if isinstance(answer, asyncio.CancelledError):
                assert patience == 2
            else:
                assert answer == numbers

    run(FakeEngine(num_slots), scenario)


def test_the_wait_is_estimated_from_what_batches_took_under_load() -> None:
    class SlowEngine(FakeEngine):
        def forward(self, batch: Batch) -> EngineOutput:
            time.sleep(1e-4)
            return super().forward(batch)

    engine = SlowEngine(num_slots=1)

    async def scenario(scheduler: BatchScheduler) -> None:
        assert scheduler.estimated_wait_s() == 0
        for i in range(MIN_OBSERVED_BATCHES + REFIT_AFTER_BATCHES):
            await scheduler.submit([ids(i, 1 + i % 60)])
        engine.gate.clear()
        tasks = [asyncio.create_task(scheduler.submit([ids(i, 64)])) for i in range(40)]
        await until(lambda: scheduler.num_waiting == 39)
        estimated_s = scheduler.estimated_wait_s()
        assert estimated_s is not None
        assert 39 * 1e-4 < estimated_s < 4
        engine.gate.set()
        await asyncio.gather(*tasks)
        assert scheduler.estimated_wait_s() == 0

    run(engine, scenario)


def test_the_wait_is_unknown_until_batches_were_seen() -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()

    async def scenario(scheduler: BatchScheduler) -> None:
        tasks = [asyncio.create_task(scheduler.submit([ids(i, 64)])) for i in range(3)]
        await until(lambda: scheduler.num_waiting == 2)
        assert scheduler.estimated_wait_s() is None
        engine.gate.set()
        await asyncio.gather(*tasks)

    run(engine, scenario)


async def learn_costs(scheduler: BatchScheduler) -> None:
    for i in range(MIN_OBSERVED_BATCHES + REFIT_AFTER_BATCHES):
        await scheduler.submit([ids(i, 1 + i % 60)])


class SlowEngine(FakeEngine):
    """Takes 2 ms a batch, so that there is a wait to estimate."""

    def forward(self, batch: Batch) -> EngineOutput:
        time.sleep(0.002)
        return super().forward(batch)


def test_a_query_is_computed_before_documents_that_came_first() -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()

    async def scenario(scheduler: BatchScheduler) -> None:
        running = asyncio.create_task(scheduler.submit([ids(0)]))
        await until(lambda: scheduler.stalled_for_s() > 0)
        # More tokens than a batch takes make it bulk work; a header may say so of anything.
        documents = asyncio.create_task(scheduler.submit([ids(i, 32) for i in range(10, 14)]))
        marked = asyncio.create_task(
            scheduler.submit([ids(20, 64)], terms=Terms(priority=Priority.BULK))
        )
        await until(lambda: scheduler.num_waiting == 5)
        query = asyncio.create_task(scheduler.submit([ids(1, 60)]))
        await until(lambda: scheduler.num_waiting == 6)
        engine.gate.set()
        await asyncio.gather(running, documents, marked, query)

    run(engine, scenario)

    assert engine.batches == [[0], [1], [10, 11], [12, 13], [20]]


def test_what_is_past_its_deadline_is_not_computed() -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()

    async def scenario(scheduler: BatchScheduler) -> None:
        running = asyncio.create_task(scheduler.submit([ids(0)]))
        await until(lambda: scheduler.stalled_for_s() > 0)
        soon = Terms(deadline=time.monotonic() + 0.01)
        late = asyncio.create_task(scheduler.submit([ids(1), ids(2)], terms=soon))
        patient = asyncio.create_task(scheduler.submit([ids(2)]))
        await until(lambda: scheduler.num_waiting == 2)
        await asyncio.sleep(0.02)
        engine.gate.set()
        with pytest.raises(DeadlineExceededError):
            await late
        await asyncio.gather(running, patient)
        assert scheduler.num_waiting == 0

    run(engine, scenario)

    assert engine.batches == [[0], [2]]


def test_a_deadline_that_the_queue_cannot_keep_is_refused_at_once() -> None:
    engine = SlowEngine(num_slots=1)

    async def scenario(scheduler: BatchScheduler) -> None:
        await learn_costs(scheduler)
        engine.gate.clear()
        tasks = [asyncio.create_task(scheduler.submit([ids(i, 64)])) for i in range(60)]
        await until(lambda: scheduler.num_waiting == 59)
        soon = Terms(deadline=time.monotonic() + 0.01)
        with pytest.raises(DeadlineTooSoonError) as caught:
            await scheduler.submit([ids(100)], terms=soon)
        with pytest.raises(DeadlineTooSoonError):
            scheduler.check_admission(soon)
        assert caught.value.queue["waiting_inputs"] == 59
        assert scheduler.num_waiting == 59
        later = asyncio.create_task(
            scheduler.submit([ids(100)], terms=Terms(deadline=time.monotonic() + 60))
        )
        await until(lambda: scheduler.num_waiting == 60)
        engine.gate.set()
        await asyncio.gather(*tasks, later)

    run(engine, scenario)


def test_a_long_input_is_refused_that_no_slot_computes_in_time_however_many_there_are() -> None:
    engine = SlowEngine(num_slots=8)

    async def scenario(scheduler: BatchScheduler) -> None:
        while scheduler._costs.estimate_s(Workload(1, 1)) is None:
            # All slots busy, as only those batches tell what one takes.
            await asyncio.gather(*(scheduler.submit([ids(i, 64)]) for i in range(16)))
        longest_s = scheduler._costs.estimate_s(Workload.of_batch([256]))
        assert longest_s is not None
        with pytest.raises(DeadlineTooSoonError):
            await scheduler.submit(
                [ids(1, 256)], terms=Terms(deadline=time.monotonic() + longest_s / 2)
            )

    run(engine, scenario)


def test_whole_requests_are_refused_where_the_wait_is_too_long_and_admitted_afterwards() -> None:
    engine, bulk = SlowEngine(num_slots=1), Terms(Priority.BULK)

    async def scenario(scheduler: BatchScheduler) -> None:
        await learn_costs(scheduler)
        engine.gate.clear()
        large = asyncio.create_task(scheduler.submit([ids(i, 64) for i in range(60)]))
        await until(lambda: scheduler.num_waiting == 59)
        with pytest.raises(QueueFullError):
            await scheduler.submit([ids(i) for i in range(100, 103)], terms=bulk)
        with pytest.raises(QueueFullError):
            scheduler.check_admission(bulk)
        assert scheduler.num_waiting == 59
        engine.gate.set()
        await large
        await scheduler.submit([ids(i, 64) for i in range(100, 110)], terms=bulk)

    run(engine, scenario, admission=AdmissionLimits(max_wait_s=0.02))


def test_documents_that_wait_do_not_make_a_query_wait_too_long() -> None:
    engine = SlowEngine(num_slots=1)

    async def scenario(scheduler: BatchScheduler) -> None:
        await learn_costs(scheduler)
        engine.gate.clear()
        bulk = [ids(i, 64) for i in range(60)]
        documents = asyncio.create_task(scheduler.submit(bulk))
        await until(lambda: scheduler.num_waiting == 59)
        with pytest.raises(QueueFullError):
            await scheduler.submit([ids(i, 64) for i in range(100, 102)])
        query = asyncio.create_task(first_values(scheduler, [ids(200)]))
        await until(lambda: scheduler.num_waiting == 60)
        engine.gate.set()
        assert await query == [200]
        await documents

    run(engine, scenario, admission=AdmissionLimits(max_wait_s=0.02))


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), min_size=1, max_size=6),
            st.sampled_from(Priority),
            st.sampled_from([0.0, 0.0005, 0.002, None]),
            st.integers(0, 3),
        ),
        max_size=15,
    ),
    num_slots=st.integers(1, 3),
)
def test_whoever_is_admitted_is_answered_exactly_once_or_told_that_its_time_is_over(
    requests: list[tuple[list[int], Priority, float | None, int]], num_slots: int
) -> None:
    async def scenario(scheduler: BatchScheduler) -> None:
        tasks = []
        for numbers, priority, time_s, turns in requests:
            deadline = float("inf") if time_s is None else time.monotonic() + time_s
            terms = Terms(priority, deadline)
            tasks.append(
                asyncio.create_task(scheduler.submit([ids(i, i + 1) for i in numbers], terms=terms))
            )
            for _ in range(turns):
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        for (numbers, _, time_s, _), answer in zip(requests, answers, strict=True):
            if isinstance(answer, DeadlineExceededError | DeadlineTooSoonError):
                assert time_s is not None
                continue
            assert isinstance(answer, ForwardResult)
            assert [int(row[0]) for row in answer.outputs] == numbers
        assert scheduler.num_waiting == 0

    run(FakeEngine(num_slots), scenario)
