from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.scheduler.cost import Workload
from beicli.scheduler.queue import BatchLimits, SequenceQueue


@dataclass
class Entry:
    """A sequence in the queue; row: its place in the order of arrival."""

    row: int
    num_tokens: int
    cancelled: bool = False
    latest_start_at: float = float("inf")


Queue = SequenceQueue[Entry]

LIMITS = BatchLimits(max_num_tokens=512, max_batch_size=32, preferred_num_tokens=128)


def entries(*lengths: int) -> list[Entry]:
    return [Entry(row, length) for row, length in enumerate(lengths)]


def filled(*lengths: int, limits: BatchLimits = LIMITS) -> Queue:
    queue = Queue(limits)
    queue.push(entries(*lengths))
    return queue


def padded(batch: list[Entry]) -> int:
    return max(entry.num_tokens for entry in batch) * len(batch)


def drain(queue: Queue, *, num_free_slots: int = 1) -> list[list[Entry]]:
    batches = []
    while batch := queue.take_batch(num_free_slots=num_free_slots):
        batches.append(batch)
    return batches


some_limits = st.builds(
    BatchLimits,
    max_num_tokens=st.just(512),
    max_batch_size=st.integers(1, 40),
    preferred_num_tokens=st.integers(1, 600),
)
some_lengths = st.lists(st.integers(1, 512), max_size=200)


@given(lengths=some_lengths, limits=some_limits, slots=st.integers(1, 8))
def test_every_pushed_sequence_leaves_in_exactly_one_batch(
    lengths: list[int], limits: BatchLimits, slots: int
) -> None:
    queue = filled(*lengths, limits=limits)

    left = [entry.row for batch in drain(queue, num_free_slots=slots) for entry in batch]

    assert sorted(left) == list(range(len(lengths)))
    assert len(queue) == 0
    assert queue.workload() == Workload(0, 0, 0)


@given(lengths=some_lengths, limits=some_limits, slots=st.integers(1, 8))
def test_a_batch_keeps_the_budget_or_holds_a_single_sequence(
    lengths: list[int], limits: BatchLimits, slots: int
) -> None:
    for batch in drain(filled(*lengths, limits=limits), num_free_slots=slots):
        assert len(batch) <= limits.max_batch_size
        assert len(batch) == 1 or padded(batch) <= limits.preferred_num_tokens


@given(lengths=some_lengths, limits=some_limits)
def test_every_batch_holds_the_oldest_sequence_so_none_starves(
    lengths: list[int], limits: BatchLimits
) -> None:
    waiting = list(range(len(lengths)))

    for batch in drain(filled(*lengths, limits=limits)):
        rows = {entry.row for entry in batch}
        assert waiting[0] in rows
        waiting = [row for row in waiting if row not in rows]


@given(lengths=some_lengths, cancelled=st.sets(st.integers(0, 199)))
def test_take_batch_skips_entries_whose_caller_left(
    lengths: list[int], cancelled: set[int]
) -> None:
    queue = Queue(LIMITS)
    for row, length in enumerate(lengths):
        queue.push([Entry(row, length, cancelled=row in cancelled)])

    left = {entry.row for batch in drain(queue) for entry in batch}

    assert left == set(range(len(lengths))) - cancelled
    assert queue.num_tokens == 0


def test_take_batch_prefers_neighbours_in_length_over_order_of_arrival() -> None:
    queue = filled(30, 128, 29, 100, 31, 30)

    batch = queue.take_batch()

    assert sorted(entry.num_tokens for entry in batch) == [29, 30, 30, 31]


def test_equal_lengths_leave_in_order_of_arrival() -> None:
    queue = filled(*[32] * 8)

    assert [entry.row for entry in queue.take_batch()] == [0, 1, 2, 3]


def test_a_sequence_above_the_preferred_size_travels_alone() -> None:
    queue = filled(300, 10)

    assert [entry.num_tokens for entry in queue.take_batch()] == [300]


def test_a_short_queue_is_shared_among_the_free_slots() -> None:
    limits = BatchLimits(max_num_tokens=4096, max_batch_size=64, preferred_num_tokens=4096)
    queue = filled(*[64] * 8, limits=limits)

    assert len(queue.take_batch(num_free_slots=2)) == 4


def test_very_short_work_is_not_split_at_all() -> None:
    queue = filled(8, 8, 8, 8)

    assert len(queue.take_batch(num_free_slots=4)) == 4


@pytest.mark.parametrize("length", [0, 513])
def test_push_refuses_a_request_whole_when_one_sequence_cannot_fit(length: int) -> None:
    queue = Queue(LIMITS)

    with pytest.raises(ValueError, match=f"a sequence of {length} tokens cannot be queued"):
        queue.push(entries(5, length))

    assert len(queue) == 0


def test_a_window_of_ten_thousand_short_entries_stays_bounded() -> None:
    queue = filled(*[1] * 10_000)

    batch = queue.take_batch()

    assert len(batch) == LIMITS.max_batch_size
    assert len(queue) == 10_000 - LIMITS.max_batch_size


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        BatchLimits(max_num_tokens=0, max_batch_size=1, preferred_num_tokens=1)


@given(
    entries=st.lists(st.tuples(st.integers(1, 512), st.integers(0, 10)), max_size=100),
    now=st.integers(0, 10),
)
def test_what_had_to_start_before_now_is_set_aside_once_and_never_batched(
    entries: list[tuple[int, int]], now: int
) -> None:
    queue = Queue(LIMITS)
    queue.push(Entry(row, n, latest_start_at=at) for row, (n, at) in enumerate(entries))

    taken = []
    while batch := queue.take_batch(now=now):
        taken += [entry.row for entry in batch]
    expired = [entry.row for entry in queue.take_expired()]

    too_late = {row for row, (_, at) in enumerate(entries) if at < now}
    assert sorted(expired) == sorted(too_late)
    assert sorted(taken) == sorted(set(range(len(entries))) - too_late)
    assert queue.take_expired() == []
    assert queue.workload() == Workload(0, 0, 0)
