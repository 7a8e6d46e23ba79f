"""First-come queue of tokenised inputs, cut into batches under a token budget.

Pure and synchronous: no clock, no lock, no event loop. Threads and futures are in `scheduler.py`.

A batch is formed in four steps:
1. Look at a window of the queue's head, about eight batches deep; drop entries nobody waits for,
   and set those aside that could not be finished in time.
2. Take the oldest entry, whatever its length: it leaves with this batch, so nothing starves.
3. Add its neighbours in length, least padding first, while the share of real tokens in the
   batch's cost grows and count x longest fits the budget.
4. Put the rest of the window back, in its old order.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from beicli.scheduler.cost import BatchCost, Workload

# Deep enough to find neighbours in length, shallow enough to sort in a fraction of a batch's time.
WINDOW_IN_BATCHES = 8
WINDOW_MAX_SEQUENCES = 1024
# Below this, splitting a batch over idle slots costs more in overhead than it wins in time.
MIN_SPLIT_NUM_TOKENS = 128


class Queued(Protocol):
    """One tokenised input in the queue.

    num_tokens: its length, special tokens included.
    cancelled: whether nobody waits for it any more; then it stays so.
    latest_start_at: after which nobody wants it begun; infinite for most.
    """

    @property
    def num_tokens(self) -> int: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def latest_start_at(self) -> float: ...


E = TypeVar("E", bound=Queued)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What one forward pass may hold; tokens are counted with padding.

    max_num_tokens: hard limit, also of a single sequence.
    max_batch_size: hard limit on sequences.
    preferred_num_tokens: where a batch is cut; a longer sequence travels alone.
    """

    max_num_tokens: int
    max_batch_size: int
    preferred_num_tokens: int

    def __post_init__(self) -> None:
        if min(self.max_num_tokens, self.max_batch_size, self.preferred_num_tokens) < 1:
            raise ValueError(f"batch limits must be positive, got {self}")

    def check_length(self, num_tokens: int) -> None:
        """Raise ValueError for a sequence that no batch can hold."""
        if not 0 < num_tokens <= self.max_num_tokens:
            raise ValueError(
                f"a sequence of {num_tokens} tokens cannot be queued: "
                f"the limit is {self.max_num_tokens}"
            )


class SequenceQueue(Generic[E]):
    """The waiting sequences, oldest first.

    cost: what batches are cut by; may be replaced at any time.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.cost = BatchCost()
        self._limits = limits
        self._waiting: deque[E] = deque()
        self._expired: list[E] = []
        self._num_tokens = 0
        self._num_pairs = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_tokens(self) -> int:
        """Tokens waiting, without padding, cancelled entries included until they are dropped."""
        return self._num_tokens

    def workload(self) -> Workload:
        """Return what is waiting, as `num_tokens` counts, in as few batches as it could take."""
        limits = self._limits
        by_tokens = -(-self._num_tokens // limits.preferred_num_tokens)
        by_size = -(-len(self._waiting) // limits.max_batch_size)
        return Workload(self._num_tokens, self._num_pairs, max(by_tokens, by_size))

    def push(self, sequences: Iterable[E]) -> None:
        """Append a whole request, or refuse it whole with ValueError.

        A sequence above `max_num_tokens` would never fit a batch and would block the queue.
        """
        entries = list(sequences)
        for entry in entries:
            self._limits.check_length(entry.num_tokens)
        self._waiting.extend(entries)
        self._count(entries, 1)

    def take_batch(
        self, *, num_free_slots: int = 1, now: float = float("-inf"), part: int = 1
    ) -> list[E]:
        """Remove and return the next batch; empty only when nobody waits.

        num_free_slots: slots that could take a batch now, the asking one included. A short queue
        is shared among them, so one request alone on the machine uses all of it.
        now: what had to start before is set aside for `take_expired`.
        part: cut the batch at this part of the preferred size.
        """
        window = self._take_window(now)
        if not window:
            return []
        budget = self._budget(window, num_free_slots, part)
        taken = self._neighbours_of_oldest(window, budget)
        taken_ids = set(map(id, taken))
        self._waiting.extendleft(e for e in reversed(window) if id(e) not in taken_ids)
        self._count(taken, -1)
        return taken

    def take_expired(self) -> list[E]:
        """Remove and return what waited until it could start no more."""
        expired, self._expired = self._expired, []
        return expired

    def _count(self, entries: Iterable[E], sign: int) -> None:
        for entry in entries:
            self._num_tokens += sign * entry.num_tokens
            self._num_pairs += sign * entry.num_tokens**2

    def _take_window(self, now: float) -> list[E]:
        window: list[E] = []
        remaining = WINDOW_IN_BATCHES * self._limits.preferred_num_tokens
        while self._waiting and remaining > 0 and len(window) < WINDOW_MAX_SEQUENCES:
            entry = self._waiting.popleft()
            if entry.cancelled:
                self._count([entry], -1)
                continue
            if entry.latest_start_at < now:
                self._count([entry], -1)
                self._expired.append(entry)
                continue
            window.append(entry)
            remaining -= entry.num_tokens
        return window

    def _budget(self, window: list[E], num_free_slots: int, part: int) -> int:
        limits = self._limits
        num_tokens = sum(entry.num_tokens for entry in window)
        share = max(-(-num_tokens // max(num_free_slots, 1)), MIN_SPLIT_NUM_TOKENS)
        preferred = max(limits.preferred_num_tokens // part, 1)
        return min(preferred, limits.max_num_tokens, share)

    def _neighbours_of_oldest(self, window: list[E], budget: int) -> list[E]:
        """Grow a range of `window`, sorted by length, around its oldest entry.

        Each step goes where it adds less padding: a shorter neighbour is padded itself, a longer
        one pads all that are there already. It ends where a step no longer pays for its padding.
        """
        cost, max_batch_size = self.cost, self._limits.max_batch_size
        # A stable sort keeps equal lengths in order of arrival.
        by_length = sorted(window, key=attrgetter("num_tokens"))
        low = high = by_length.index(window[0])
        useful = cost.of_sequence(window[0].num_tokens)
        density = useful / (useful + cost.overhead_num_tokens)
        while (size := high - low + 2) <= max_batch_size:
            longest = by_length[high].num_tokens
            shorter = by_length[low - 1].num_tokens if low > 0 else 0
            longer = by_length[high + 1].num_tokens if high + 1 < len(by_length) else budget + 1
            grows_up = longer * size <= budget and (
                shorter == 0 or (longer - longest) * (size - 1) < longest - shorter
            )
            added = longer if grows_up else shorter
            longest = max(longest, added)
            useful += cost.of_sequence(added)
            grown = useful / (cost.of_sequence(longest) * size + cost.overhead_num_tokens)
            if added == 0 or longest * size > budget or grown < density:
                break
            density = grown
            low, high = (low, high + 1) if grows_up else (low - 1, high)
        return by_length[low : high + 1]
