"""The queue over whole histories: entries come, are given up and leave in batches, in any order."""

import heapq
import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from beicli.scheduler.cost import BatchCost, Workload
from beicli.scheduler.queue import BatchLimits, SequenceQueue

MAX_NUM_TOKENS = 256
LIMITS = BatchLimits(max_num_tokens=MAX_NUM_TOKENS, max_batch_size=6, preferred_num_tokens=100)

some_lengths = st.lists(st.integers(1, MAX_NUM_TOKENS), min_size=1, max_size=12)


@dataclass(eq=False)
class Entry:
    """A sequence in the queue; max_batches: after how many more batches it must have left."""

    num_tokens: int
    max_batches: int
    cancelled: bool = False
    latest_start_at: float = float("inf")


class History(RuleBasedStateMachine):
    """Keeps its own list of who waits, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: SequenceQueue[Entry] = SequenceQueue(LIMITS)
        self.waiting: list[Entry] = []

    def live(self) -> list[Entry]:
        return [entry for entry in self.waiting if not entry.cancelled]

    @rule(lengths=some_lengths)
    def push(self, lengths: list[int]) -> None:
        num_before = len(self.live())
        entries = [Entry(length, num_before + i) for i, length in enumerate(lengths)]
        self.queue.push(entries)
        self.waiting += entries

    @rule(lengths=some_lengths, wrong=st.sampled_from([0, -1, MAX_NUM_TOKENS + 1]))
    def push_what_never_fits(self, lengths: list[int], wrong: int) -> None:
        with pytest.raises(ValueError, match="cannot be queued"):
            self.queue.push([Entry(length, 0) for length in (*lengths, wrong)])

    @rule(place=st.integers(0, 30))
    def give_up(self, place: int) -> None:
        if place < len(self.waiting):
            self.waiting[place].cancelled = True

    @rule(overhead=st.floats(16, 256), pair=st.floats(0, 1 / 128))
    def learn(self, overhead: float, pair: float) -> None:
        self.queue.cost = BatchCost(overhead, pair)

    @rule(num_free_slots=st.integers(1, 5))
    def take(self, num_free_slots: int) -> None:
        live = self.live()
        batch = self.queue.take_batch(num_free_slots=num_free_slots)

        # Empty only when nobody waits; whoever leaves was there, once, and is still wanted.
        assert bool(batch) == bool(live)
        assert len(set(batch)) == len(batch)
        assert set(batch) <= set(live)
        if not batch:
            self.waiting = []
            return
        assert live[0] in batch
        padded = max(entry.num_tokens for entry in batch) * len(batch)
        assert len(batch) <= LIMITS.max_batch_size
        assert len(batch) == 1 or padded <= LIMITS.preferred_num_tokens
        self.waiting = [entry for entry in self.waiting if entry not in batch]
        for entry in self.live():
            assert entry.max_batches > 0, "it was overtaken for longer than its place allows"
            entry.max_batches -= 1

    @invariant()
    def what_waits_is_counted(self) -> None:
        live = self.live()
        # Those given up count until a batch comes upon them.
        assert len(live) <= len(self.queue) <= len(self.waiting)
        assert self.queue.num_tokens >= sum(entry.num_tokens for entry in live)
        assert self.queue.workload().num_batches >= (1 if live else 0)

    def teardown(self) -> None:
        while self.live():
            self.take(1)
        self.take(1)
        assert (len(self.queue), self.queue.workload()) == (0, Workload(0, 0, 0))


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@dataclass(eq=False)
class Arrival:
    """An entry with the moments of its life, on a clock that only the test moves.

    leaves_at: when its caller has had enough. max_wait_s: how long its place lets it wait.
    """

    num_tokens: int
    arrived_at: float
    leaves_at: float
    cancelled: bool = False
    latest_start_at: float = float("inf")
    max_wait_s: float = math.inf
    started_at: float | None = None


arrivals = st.lists(
    st.builds(
        Arrival,
        num_tokens=st.integers(1, MAX_NUM_TOKENS),
        arrived_at=st.floats(0, 2),
        leaves_at=st.floats(0, 6) | st.just(math.inf),
    ),
    min_size=1,
    max_size=60,
)
TOKEN_S, BATCH_S = 0.001, 0.02
LONGEST_BATCH_S = BATCH_S + TOKEN_S * MAX_NUM_TOKENS


def simulate(entries: list[Arrival], num_slots: int) -> None:
    """Run the queue against slots that take their time; sets `started_at`."""
    queue: SequenceQueue[Arrival] = SequenceQueue(LIMITS)
    coming = sorted(entries, key=lambda entry: entry.arrived_at)
    free_at = [0.0] * num_slots
    waiting: list[Arrival] = []
    while coming or waiting:
        now = heapq.heappop(free_at)
        if not waiting and coming:
            now = max(now, coming[0].arrived_at)
        while coming and coming[0].arrived_at <= now:
            entry = coming.pop(0)
            place = sum(1 for each in waiting if each.leaves_at > entry.arrived_at)
            # Each slot takes a batch at least so often, and each batch the oldest entry.
            entry.max_wait_s = math.ceil((place + 1) / num_slots) * LONGEST_BATCH_S
            queue.push([entry])
            waiting.append(entry)
        for entry in waiting:
            entry.cancelled = entry.leaves_at <= now
        batch = queue.take_batch(num_free_slots=1 + sum(each <= now for each in free_at))
        for entry in batch:
            entry.started_at = now
        waiting = [e for e in waiting if not e.cancelled and e.started_at is None]
        longest = max((entry.num_tokens for entry in batch), default=0)
        duration_s = BATCH_S + TOKEN_S * longest * len(batch) if batch else 0.0
        heapq.heappush(free_at, now + duration_s)


@given(entries=arrivals, num_slots=st.integers(1, 4))
def test_on_any_timetable_everyone_starts_within_what_their_place_allows_or_has_left(
    entries: list[Arrival], num_slots: int
) -> None:
    simulate(entries, num_slots)

    for entry in entries:
        if entry.started_at is None:
            assert entry.cancelled, "somebody waited and was never computed"
            continue
        assert entry.started_at < entry.leaves_at, "who had left was computed"
        # Rounding adds up over the batches.
        assert entry.started_at - entry.arrived_at <= entry.max_wait_s + 1e-9
