"""How long the slots of an engine have been busy: with the batch at hand, and in all."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Slot:
    """finished_s: computing time of the batches that ended; started_at: of the one that runs."""

    finished_s: float = 0.0
    started_at: float | None = None


class SlotTimes:
    """Written by each slot's own thread, read on the event loop; needs no lock.

    A slot's record is replaced as a whole, so a batch is counted as running or as finished, never
    as both.
    """

    def __init__(self, num_slots: int) -> None:
        self._slots = [_Slot()] * num_slots
        self._told_s = 0.0

    def begin(self, slot: int, started_at: float) -> None:
        """Account for a batch that starts."""
        self._slots[slot] = _Slot(self._slots[slot].finished_s, started_at)

    def end(self, slot: int, finished_at: float) -> None:
        """Account for the batch of `begin`, which has ended."""
        before = self._slots[slot]
        assert before.started_at is not None, "a batch begins before it ends"
        self._slots[slot] = _Slot(before.finished_s + finished_at - before.started_at)

    @property
    def num_running(self) -> int:
        """Slots that compute now."""
        return sum(slot.started_at is not None for slot in self._slots)

    def longest_running_s(self) -> float:
        """How long the slowest batch has been at it; 0 if none runs."""
        started = [slot.started_at for slot in self._slots if slot.started_at is not None]
        return time.monotonic() - min(started) if started else 0.0

    def busy_s(self) -> float:
        """Return computing time of all slots so far, running batches included; never goes down."""
        slots, now = list(self._slots), time.monotonic()
        busy_s = sum(
            slot.finished_s + (0.0 if slot.started_at is None else now - slot.started_at)
            for slot in slots
        )
        # A batch may end between the two reads above, a moment before `now`.
        self._told_s = max(self._told_s, busy_s)
        return self._told_s
