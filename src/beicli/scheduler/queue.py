"""First-come queue of tokenised inputs, cut into batches under a token budget.

Pure and synchronous: no clock, no lock, no event loop. Threads and futures are in `scheduler.py`.

A batch is formed in four steps:
1. Look at a window of the queue's head, about eight batches deep; drop entries nobody waits for.
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

# Deep enough to find neighbours in length, shallow enough to sort in a fraction of a batch's time.
WINDOW_IN_BATCHES = 8
WINDOW_MAX_SEQUENCES = 1024
# Below this, splitting a batch over idle slots costs more in overhead than it wins in time.
MIN_SPLIT_NUM_TOKENS = 128


class Caller(Protocol):
    """Whoever waits for a sequence."""

    @property
    def cancelled(self) -> bool: ...


C = TypeVar("C", bound=Caller)


@dataclass(frozen=True, slots=True, eq=False)
class QueuedSequence(Generic[C]):
    """One tokenised input in the queue.

    num_tokens: its length, special tokens included.
    row: its place among the inputs of its request.
    """

    request: C
    row: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What one forward pass may hold; tokens are counted with padding.

    max_num_tokens: hard limit, also of a single sequence.
    max_batch_size: hard limit on sequences.
    preferred_num_tokens: where a batch is cut; a longer sequence travels alone.
    overhead_num_tokens: what a batch costs beside its tokens, as so many tokens: measured 15 for
        the forward pass alone, more with the way there and back. Small is little padding.
    """

    max_num_tokens: int
    max_batch_size: int
    preferred_num_tokens: int
    overhead_num_tokens: int = 64

    def __post_init__(self) -> None:
        if min(self.max_num_tokens, self.max_batch_size, self.preferred_num_tokens) < 1:
            raise ValueError(f"batch limits must be positive, got {self}")


class SequenceQueue(Generic[C]):
    """The waiting sequences, oldest first."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: deque[QueuedSequence[C]] = deque()
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_tokens(self) -> int:
        """Tokens waiting, without padding, cancelled entries included until they are dropped."""
        return self._num_tokens

    def push(self, sequences: Iterable[QueuedSequence[C]]) -> None:
        """Append a whole request, or refuse it whole with ValueError.

        A sequence above `max_num_tokens` would never fit a batch and would block the queue.
        """
        entries = list(sequences)
        for entry in entries:
            if not 0 < entry.num_tokens <= self._limits.max_num_tokens:
                raise ValueError(
                    f"a sequence of {entry.num_tokens} tokens cannot be queued: "
                    f"the limit is {self._limits.max_num_tokens}"
                )
        self._waiting.extend(entries)
        self._num_tokens += sum(entry.num_tokens for entry in entries)

    def take_batch(self, *, num_free_slots: int = 1) -> list[QueuedSequence[C]]:
        """Remove and return the next batch; empty only when nobody waits.

        num_free_slots: slots that could take a batch now, the asking one included. A short queue
        is shared among them, so one request alone on the machine uses all of it.
        """
        window = self._take_window()
        if not window:
            return []
        budget = self._budget(window, num_free_slots)
        taken = self._neighbours_of_oldest(window, budget)
        taken_ids = set(map(id, taken))
        self._waiting.extendleft(e for e in reversed(window) if id(e) not in taken_ids)
        self._num_tokens -= sum(entry.num_tokens for entry in taken)
        return taken

    def _take_window(self) -> list[QueuedSequence[C]]:
        window: list[QueuedSequence[C]] = []
        remaining = WINDOW_IN_BATCHES * self._limits.preferred_num_tokens
        while self._waiting and remaining > 0 and len(window) < WINDOW_MAX_SEQUENCES:
            entry = self._waiting.popleft()
            if entry.request.cancelled:
                self._num_tokens -= entry.num_tokens
                continue
            window.append(entry)
            remaining -= entry.num_tokens
        return window

    def _budget(self, window: list[QueuedSequence[C]], num_free_slots: int) -> int:
        limits = self._limits
        num_tokens = sum(entry.num_tokens for entry in window)
        share = max(-(-num_tokens // max(num_free_slots, 1)), MIN_SPLIT_NUM_TOKENS)
        return min(limits.preferred_num_tokens, limits.max_num_tokens, share)

    def _neighbours_of_oldest(
        self, window: list[QueuedSequence[C]], budget: int
    ) -> list[QueuedSequence[C]]:
        """Grow a range of `window`, sorted by length, around its oldest entry.

        Each step goes where it adds less padding: a shorter neighbour is padded itself, a longer
        one pads all that are there already. It ends where a step no longer pays for its padding.
        """
        limits = self._limits
        # A stable sort keeps equal lengths in order of arrival.
        by_length = sorted(window, key=attrgetter("num_tokens"))
        low = high = by_length.index(window[0])
        num_tokens = window[0].num_tokens
        density = num_tokens / (num_tokens + limits.overhead_num_tokens)
        while (size := high - low + 2) <= limits.max_batch_size:
            longest = by_length[high].num_tokens
            shorter = by_length[low - 1].num_tokens if low > 0 else 0
            longer = by_length[high + 1].num_tokens if high + 1 < len(by_length) else budget + 1
            grows_up = longer * size <= budget and (
                shorter == 0 or (longer - longest) * (size - 1) < longest - shorter
            )
            added = longer if grows_up else shorter
            padded = max(longest, added) * size
            grown = (num_tokens + added) / (padded + limits.overhead_num_tokens)
            if added == 0 or padded > budget or grown < density:
                break
            num_tokens, density = num_tokens + added, grown
            low, high = (low, high + 1) if grows_up else (low - 1, high)
        return by_length[low : high + 1]
