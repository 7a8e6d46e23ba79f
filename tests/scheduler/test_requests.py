import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.engine.batch import TokenSequence
from beicli.errors import DeadlineExceededError, EngineError, UnhealthyError
from beicli.scheduler.requests import NotFiniteError, Request, Requests, Work
from beicli.scheduler.terms import Priority

# Of an input only its ids matter, and few differ, so that most come more than once.
some_ids = st.lists(st.integers(0, 2), min_size=1, max_size=2)
some_actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("join"),
            st.lists(some_ids, min_size=1, max_size=5),
            st.booleans(),
            st.sampled_from(Priority),
            st.sampled_from([0.0, 1.0, 2.0, float("inf")]),
        ),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("expire"), st.sampled_from([0.5, 1.5, 2.5])),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("finish"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 3)),
    ),
    max_size=30,
)


@dataclass
class Asked:
    """A request that was made: what of, and whether its caller left."""

    request: Request
    inputs: list[list[int]]
    needs_tokens: bool
    left: bool = False


@dataclass
class World:
    """Callers, a queue in order of arrival, and slots; one thing happens at a time."""

    loop: asyncio.AbstractEventLoop
    requests: Requests = field(default_factory=lambda: Requests(lambda num_tokens: num_tokens))
    asked: list[Asked] = field(default_factory=list)
    queue: list[Work] = field(default_factory=list)
    running: list[list[Work]] = field(default_factory=list)

    def join(
        self,
        inputs: list[list[int]],
        needs_tokens: bool = False,  # noqa: FBT001, FBT002
        priority: Priority = Priority.INTERACTIVE,
        latest_start_at: float = float("inf"),
    ) -> Asked:
        request = Request(self.loop.create_future(), 0.0, [None] * len(inputs), priority)
        request.latest_start_at = latest_start_at
        sequences = [TokenSequence(np.array(ids, dtype=np.int32)) for ids in inputs]
        self.queue += self.requests.join(request, sequences, needs_tokens=needs_tokens)
        self.asked.append(Asked(request, inputs, needs_tokens))
        return self.asked[-1]

    def leave(self, index: int) -> None:
        if index < len(self.asked):
            self.requests.leave(self.asked[index].request)
            self.asked[index].left = True

    def expire(self, now: float) -> None:
        """Set aside what is too late, let somebody join meanwhile, and tell those who waited."""
        expired = [work for work in self.queue if work.latest_start_at < now]
        self.queue = [work for work in self.queue if work not in expired]
        if expired:
            self.join([expired[0].sequence.input_ids.tolist()], expired[0].needs_tokens)
        self.queue += self.requests.expire(expired, now=now)

    def take(self, size: int) -> None:
        self.queue = [work for work in self.queue if not work.cancelled]
        for work in self.queue[:size]:
            work.is_running = True
        self.running.append(self.queue[:size])
        self.queue = self.queue[size:]

    def finish(self, index: int) -> None:
        if index < len(self.running):
            batch = self.running.pop(index)
            for work in batch:
                work.row = row(work.sequence.input_ids.tolist(), work.needs_tokens)
            self.requests.finish(batch, started_at=1.0, finished_at=2.0)

    def fail(self, index: int) -> None:
        if index < len(self.running):
            batch = self.running.pop(index)
            for work in batch:
                work.failure = RuntimeError("no")
            self.requests.finish(batch, started_at=1.0, finished_at=2.0)

    def finish_all(self) -> None:
        self.take(len(self.queue))
        while self.running:
            self.finish(0)


def row(ids: list[int], needs_tokens: bool) -> np.ndarray:  # noqa: FBT001
    """What the input `ids` must get; its tokens and the whole have different rows."""
    return np.array([*ids, 100 * needs_tokens], dtype=np.float32)


@contextmanager
def world() -> Iterator[World]:
    loop = asyncio.new_event_loop()
    try:
        yield World(loop)
    finally:
        loop.close()


@given(some_actions)
def test_whatever_happens_every_caller_that_stays_gets_its_own_rows_or_an_error(
    actions: list[tuple[object, ...]],
) -> None:
    with world() as happening:
        for name, *arguments in actions:
            getattr(happening, str(name))(*arguments)
            live = [work.key for work in happening.queue if not work.cancelled]
            assert len(set(live)) == len(live), "the same is queued twice"
        happening.finish_all()

        for asked in happening.asked:
            done = asked.request.done
            if asked.left and not done.done():
                continue
            assert done.done(), "somebody waits for ever"
            if (error := done.exception()) is not None:
                is_late = asked.request.latest_start_at < float("inf")
                assert isinstance(error, EngineError) or (
                    is_late and isinstance(error, DeadlineExceededError)
                )
                continue
            for got, ids in zip(asked.request.rows, asked.inputs, strict=True):
                assert got is not None
                assert got.tolist() == row(ids, asked.needs_tokens).tolist()


@given(some_actions)
def test_without_failures_nobody_gets_an_error_and_nothing_is_kept(
    actions: list[tuple[object, ...]],
) -> None:
    with world() as happening:
        for name, *arguments in actions:
            if name not in {"fail", "expire"}:
                getattr(happening, str(name))(*arguments)
        happening.finish_all()

        stayed = [asked.request.done for asked in happening.asked if not asked.left]
        assert all(done.done() and done.exception() is None for done in stayed)
        # So what comes next is new work, whatever it is.
        assert [len(happening.join([[i]]).request.work[0].waiters) for i in range(3)] == [1, 1, 1]
        assert len(happening.queue) == 3


def test_equal_inputs_of_one_request_are_one_piece_of_work() -> None:
    with world() as happening:
        asked = happening.join([[1], [2], [1], [1]])

        assert [work.sequence.input_ids.tolist() for work in happening.queue] == [[1], [2]]
        happening.finish_all()
        assert [got.tolist()[0] for got in asked.request.rows if got is not None] == [1, 2, 1, 1]
        assert (asked.request.queue_s, asked.request.inference_s) == (4.0, 4.0)


def test_an_input_that_is_being_computed_is_not_queued_again() -> None:
    with world() as happening:
        first = happening.join([[1]])
        happening.take(1)
        second = happening.join([[1]])

        assert happening.queue == []
        happening.finish(0)
        assert first.request.done.done()
        assert second.request.rows == first.request.rows


def test_the_second_caller_stays_when_the_first_leaves() -> None:
    with world() as happening:
        happening.join([[1]])
        second = happening.join([[1]])
        happening.leave(0)

        happening.finish_all()
        assert second.request.done.done()


def test_who_comes_after_all_have_left_gets_new_work() -> None:
    with world() as happening:
        happening.join([[1]])
        happening.take(1)
        happening.leave(0)
        second = happening.join([[1]])

        assert len(happening.queue) == 1
        happening.finish(0)
        assert not second.request.done.done()
        happening.finish_all()
        assert second.request.done.done()


def test_a_query_does_not_wait_for_the_same_text_among_documents() -> None:
    with world() as happening:
        document = happening.join([[1], [2]], priority=Priority.BULK)
        query = happening.join([[1]], priority=Priority.INTERACTIVE)

        live = [work for work in happening.queue if not work.cancelled]
        assert [(work.priority, len(work.waiters)) for work in live] == [
            (Priority.BULK, 1),
            (Priority.INTERACTIVE, 2),
        ]
        happening.finish_all()
        assert query.request.done.done()
        assert document.request.done.done()


def test_a_query_shares_what_is_being_computed_for_documents() -> None:
    with world() as happening:
        happening.join([[1]], priority=Priority.BULK)
        happening.take(1)
        happening.join([[1]], priority=Priority.INTERACTIVE)

        assert happening.queue == []


def test_only_those_whose_time_is_over_are_told_so() -> None:
    with world() as happening:
        hurried = happening.join([[1], [2]], latest_start_at=1.0)
        patient = happening.join([[2]])

        happening.expire(1.5)

        assert isinstance(hurried.request.done.exception(), DeadlineExceededError)
        assert not patient.request.done.done()
        happening.finish_all()
        assert patient.request.done.exception() is None


def test_work_that_cannot_be_queued_leaves_nobody_waiting() -> None:
    with world() as happening:
        document = happening.join([[1]], priority=Priority.BULK)
        queued = len(happening.queue)
        query = happening.join([[1], [2]])
        # It took the place of the documents' work, and the server closes.
        refused = happening.queue[queued:]

        happening.requests.abandon(refused, UnhealthyError("closing"))

        for asked in (document, query):
            assert isinstance(asked.request.done.exception(), UnhealthyError)
        assert all(work.cancelled for work in refused)
        assert len(happening.join([[1]]).request.work[0].waiters) == 1


def test_tokens_and_types_make_a_difference() -> None:
    ids = np.array([5, 6], dtype=np.int32)
    types = [None, np.array([0, 1], dtype=np.int32), np.array([1, 1], dtype=np.int32)]
    with world() as happening:
        requests = happening.requests
        fresh = [
            requests.join(
                Request(happening.loop.create_future(), 0.0, [None]),
                [TokenSequence(ids, type_ids)],
                needs_tokens=needs_tokens,
            )
            for type_ids in [*types, types[1]]
            for needs_tokens in (False, True, False)
        ]

        assert sum(map(len, fresh)) == 6


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RuntimeError("no"), "the engine could not compute input {}: RuntimeError"),
        (NotFiniteError(), "the model returned numbers that are not finite for input {}"),
    ],
)
def test_an_error_reaches_everyone_under_the_number_of_their_own_input(
    failure: Exception, message: str
) -> None:
    with world() as happening:
        asked = [happening.join([[1]]), happening.join([[2], [1], [1]])]
        happening.take(1)
        (batch,) = happening.running
        batch[0].failure = failure
        happening.requests.finish(batch, started_at=1.0, finished_at=2.0)

        errors = [one.request.done.exception() for one in asked]
        assert [str(error) for error in errors] == [message.format(0), message.format(1)]
        # What the second asked for beside it is not wanted any more, once it leaves.
        happening.leave(1)
        assert [work.cancelled for work in happening.queue] == [True]


def test_who_joins_late_waited_less() -> None:
    with world() as happening:
        happening.join([[1]])
        happening.take(1)
        late = happening.join([[1]])
        late.request.submitted_at = 1.75

        happening.finish(0)

        assert (late.request.queue_s, late.request.inference_s) == (0.0, 0.25)
