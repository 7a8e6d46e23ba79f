"""Two queues over the same slots, so that a query does not wait behind a corpus.

Interactive work goes first, but while both wait, bulk work gets its share of the time: whatever
interactive batches cost earns bulk a credit, and once that pays for a batch, bulk's turn has come.
Batches are shorter then, so that the one that runs is over soon. Pure and synchronous, as
`queue.py`.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from beicli.scheduler.cost import BatchCost, Workload
from beicli.scheduler.queue import BatchLimits, Queued, SequenceQueue
from beicli.scheduler.terms import Priority

# Of the time of the slots, while interactive work waits for more than they can do.
BULK_SHARE = 0.2
# Which part of the preferred size a batch has while both wait. A query that comes waits for the
# batch that runs, and then computes with its own, so both shorten its time; a batch's overhead is a
# few hundredths of what is left.
MIXED_PART = 2
# By how many full batches one tells how much interactive work goes before bulk work.
REMEMBERED_BATCHES = 16

E = TypeVar("E", bound=Queued)


class Lanes(Generic[E]):
    """What waits, by priority; `SequenceQueue` says how a batch is cut from one of the two."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._queues: dict[Priority, SequenceQueue[E]] = {
            priority: SequenceQueue(limits) for priority in Priority
        }
        # Cost, in tokens, that bulk work may have before interactive work goes on.
        self._bulk_credit = 0.0
        # Of what was computed lately while bulk work waited.
        self._interactive_part = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def num_tokens(self) -> int:
        """Tokens waiting, as `SequenceQueue.num_tokens`."""
        return sum(queue.num_tokens for queue in self._queues.values())

    @property
    def cost(self) -> BatchCost:
        """What batches are cut by; may be replaced at any time."""
        return self._queues[Priority.BULK].cost

    @cost.setter
    def cost(self, cost: BatchCost) -> None:
        for queue in self._queues.values():
            queue.cost = cost

    def workload(self) -> Workload:
        """Return all that is waiting."""
        interactive, bulk = (self._queues[each].workload() for each in Priority)
        return Workload(
            interactive.num_tokens + bulk.num_tokens,
            interactive.num_pairs + bulk.num_pairs,
            interactive.num_batches + bulk.num_batches,
        )

    def work_ahead_of(self, priority: Priority) -> tuple[Workload, float]:
        """Return what goes before new work of this priority, and its share of the slots' time."""
        if priority is Priority.BULK:
            # Queries that are still to come go first as well.
            return self.workload(), max(1.0 - self._interactive_part, BULK_SHARE)
        share = 1.0 - BULK_SHARE if self._queues[Priority.BULK] else 1.0
        return self._queues[Priority.INTERACTIVE].workload(), share

    def push(self, sequences: Iterable[E], priority: Priority) -> None:
        """Append a whole request, or refuse it whole with ValueError."""
        self._queues[priority].push(sequences)

    def take_batch(self, *, num_free_slots: int = 1, now: float = float("-inf")) -> list[E]:
        """Remove and return the next batch, of one priority; empty only when nobody waits.

        now: what can start no more is set aside for `take_expired`.
        """
        part = MIXED_PART if all(map(len, self._queues.values())) else 1
        for priority in self._order():
            batch = self._queues[priority].take_batch(
                num_free_slots=num_free_slots, now=now, part=part
            )
            if batch:
                self._account(priority, batch)
                return batch
        return []

    def take_expired(self) -> list[E]:
        """Remove and return what waited until it could start no more."""
        return [entry for queue in self._queues.values() for entry in queue.take_expired()]

    def _order(self) -> tuple[Priority, Priority]:
        if self._bulk_credit >= self._full_batch_cost():
            return Priority.BULK, Priority.INTERACTIVE
        return Priority.INTERACTIVE, Priority.BULK

    def _full_batch_cost(self) -> float:
        return self._limits.preferred_num_tokens // MIXED_PART + self.cost.overhead_num_tokens

    def _account(self, priority: Priority, batch: Sequence[E]) -> None:
        """Keep the books of who was served while the other waited."""
        longest = max(entry.num_tokens for entry in batch)
        cost = self.cost.of_sequence(longest) * len(batch) + self.cost.overhead_num_tokens
        if priority is Priority.BULK or self._queues[Priority.BULK]:
            weight = cost / (REMEMBERED_BATCHES * self._full_batch_cost())
            seen = 0.0 if priority is Priority.BULK else 1.0
            self._interactive_part += min(weight, 1.0) * (seen - self._interactive_part)
        other = Priority.BULK if priority is Priority.INTERACTIVE else Priority.INTERACTIVE
        if not self._queues[other]:
            self._bulk_credit = 0.0
            return
        if priority is Priority.BULK:
            # Below 0 after a sequence that is longer than a batch: it pays for that afterwards.
            self._bulk_credit -= cost
        else:
            self._bulk_credit += cost * BULK_SHARE / (1.0 - BULK_SHARE)
