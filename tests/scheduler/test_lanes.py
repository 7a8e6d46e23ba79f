from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from beicli.scheduler.cost import BatchCost, Workload
from beicli.scheduler.lanes import BULK_SHARE, Lanes
from beicli.scheduler.queue import BatchLimits
from beicli.scheduler.terms import Priority

LIMITS = BatchLimits(max_num_tokens=512, max_batch_size=32, preferred_num_tokens=128)
INTERACTIVE, BULK = Priority.INTERACTIVE, Priority.BULK
# What a batch may cost at most, where no sequence is above the preferred size.
FULL_BATCH = LIMITS.preferred_num_tokens + BatchCost().overhead_num_tokens


@dataclass(eq=False)
class Entry:
    """A sequence in a queue, with the priority it was pushed with."""

    priority: Priority
    num_tokens: int
    row: int = 0
    cancelled: bool = False
    latest_start_at: float = float("inf")


def filled(*lengths: tuple[Priority, int]) -> Lanes[Entry]:
    lanes: Lanes[Entry] = Lanes(LIMITS)
    for row, (priority, num_tokens) in enumerate(lengths):
        lanes.push([Entry(priority, num_tokens, row)], priority)
    return lanes


def cost_of(batch: list[Entry]) -> float:
    return max(each.num_tokens for each in batch) * len(batch) + BatchCost().overhead_num_tokens


some_work = st.lists(st.tuples(st.sampled_from(Priority), st.integers(1, 128)), max_size=150)


@given(work=some_work, slots=st.integers(1, 4))
def test_everything_leaves_in_exactly_one_batch_of_its_own_priority(
    work: list[tuple[Priority, int]], slots: int
) -> None:
    lanes, left = filled(*work), []

    while batch := lanes.take_batch(num_free_slots=slots):
        assert len({entry.priority for entry in batch}) == 1
        left += [entry.row for entry in batch]

    assert sorted(left) == list(range(len(work)))
    assert len(lanes) == lanes.num_tokens == 0
    assert lanes.workload() == Workload(0, 0, 0)


@given(
    queries=st.lists(st.integers(1, 128), min_size=1, max_size=40),
    documents=st.lists(st.integers(1, 128), min_size=1, max_size=40),
)
def test_while_both_wait_bulk_gets_its_share_of_the_cost_and_no_more(
    queries: list[int], documents: list[int]
) -> None:
    lanes: Lanes[Entry] = Lanes(LIMITS)
    cost = dict.fromkeys(Priority, 0.0)

    for _ in range(60):
        # Both come faster than they are computed.
        for priority, lengths in ((INTERACTIVE, queries), (BULK, documents)):
            lanes.push([Entry(priority, length) for length in lengths], priority)
        batch = lanes.take_batch()
        cost[batch[0].priority] += cost_of(batch)

    wanted = BULK_SHARE * sum(cost.values())
    assert wanted - FULL_BATCH <= cost[BULK] <= wanted + FULL_BATCH


@given(
    documents=st.lists(st.integers(1, 128), min_size=60, max_size=60),
    queries=st.lists(st.lists(st.integers(1, 128), max_size=4), min_size=60, max_size=60),
)
def test_a_query_waits_for_earlier_queries_and_for_no_more_than_bulks_share(
    documents: list[int], queries: list[list[int]]
) -> None:
    lanes = filled(*((BULK, length) for length in documents))
    waited: dict[Entry, dict[Priority, float]] = {}

    for arriving in queries:
        entries = [Entry(INTERACTIVE, length) for length in arriving]
        lanes.push(entries, INTERACTIVE)
        waited |= {entry: dict.fromkeys(Priority, 0.0) for entry in entries}
        batch = lanes.take_batch()
        for entry in batch:
            costs = waited.pop(entry, None)
            if costs is not None:
                share = BULK_SHARE / (1 - BULK_SHARE)
                assert costs[BULK] <= costs[INTERACTIVE] * share + 2 * FULL_BATCH
        for costs in waited.values():
            if batch:
                costs[batch[0].priority] += cost_of(batch)


def test_a_query_goes_before_a_corpus_that_came_first() -> None:
    lanes = filled(*[(BULK, 64)] * 20, (INTERACTIVE, 8))

    assert [entry.priority for entry in lanes.take_batch()] == [INTERACTIVE]
    assert {entry.priority for entry in lanes.take_batch()} == {BULK}


def test_batches_are_shorter_while_both_wait() -> None:
    lanes = filled(*[(BULK, 32)] * 20, *[(INTERACTIVE, 32)] * 2)

    sizes = [len(lanes.take_batch()) for _ in range(3)]

    # Two of 64 tokens for the queries, then bulk work has batches of 128 again.
    assert sizes == [2, 4, 4]


def test_bulk_work_alone_earns_no_credit_to_use_later() -> None:
    lanes = filled(*[(BULK, 128)] * 100)
    for _ in range(50):
        lanes.take_batch()

    lanes.push([Entry(INTERACTIVE, 8)], INTERACTIVE)

    assert lanes.take_batch()[0].priority is INTERACTIVE


def test_what_cannot_be_finished_in_time_is_set_aside_in_both() -> None:
    lanes: Lanes[Entry] = Lanes(LIMITS)
    for priority in Priority:
        lanes.push([Entry(priority, 8, latest_start_at=1.0), Entry(priority, 9)], priority)

    batches = [lanes.take_batch(now=2.0), lanes.take_batch(now=2.0)]

    assert [[entry.num_tokens for entry in batch] for batch in batches] == [[9], [9]]
    assert {entry.priority for entry in lanes.take_expired()} == set(Priority)
    assert lanes.take_expired() == []


def test_new_work_waits_for_its_own_kind_and_bulk_for_everything() -> None:
    lanes = filled((BULK, 100), (BULK, 100), (INTERACTIVE, 10))

    assert lanes.work_ahead_of(INTERACTIVE) == (Workload(10, 100, 1), 1 - BULK_SHARE)
    assert lanes.work_ahead_of(BULK) == (Workload(210, 20_100, 3), 1.0)


def test_bulk_work_is_known_to_wait_for_queries_that_are_still_to_come() -> None:
    lanes = filled(*[(BULK, 128)] * 200)
    for _ in range(60):
        lanes.push([Entry(INTERACTIVE, 64)], INTERACTIVE)
        lanes.take_batch()

    _, share = lanes.work_ahead_of(BULK)
    assert BULK_SHARE <= share < 0.5
    for _ in range(120):
        lanes.take_batch()
    # Without queries for a while it has the slots to itself again.
    assert lanes.work_ahead_of(BULK)[1] > 0.7


def test_without_bulk_work_queries_have_the_slots_to_themselves() -> None:
    assert filled((INTERACTIVE, 10)).work_ahead_of(INTERACTIVE) == (Workload(10, 100, 1), 1.0)


def test_the_cost_of_batches_is_that_of_both() -> None:
    lanes = filled((INTERACTIVE, 10), (BULK, 10))

    lanes.cost = BatchCost(16.0, 0.001)

    assert lanes.cost == BatchCost(16.0, 0.001)
    assert {queue.cost for queue in lanes._queues.values()} == {lanes.cost}
