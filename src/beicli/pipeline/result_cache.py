"""Rows that were computed before, the least recently used of which go first.

One cache belongs to one loaded engine, whose name need not be in the keys. What a key holds is what
the engine sees: token ids, token types, and whether every token's output is wanted. Prompts, texts
and truncation have made those ids, and dimensions and scores are made from the rows afterwards, so
none of them is in a key. Used on the event loop only.
"""

from collections import OrderedDict
from dataclasses import dataclass

from beicli.engine.batch import Float32
from beicli.scheduler.requests import WorkKey

# What Python keeps for an entry beside the numbers and the ids: an array, two strings of bytes, a
# tuple, and its place in the order. 314 were measured with
# `tracemalloc` on 100,000 entries.
ENTRY_OVERHEAD_BYTES = 350


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What became of a cache so far: inputs found and not found, entries that had to go, its size.

    num_bytes: what is held now, keys and bookkeeping included.
    """

    num_hits: int
    num_misses: int
    num_evictions: int
    num_entries: int
    num_bytes: int


class ResultCache:
    """Holds rows of at most `max_bytes` in all, keys and bookkeeping included."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rows: OrderedDict[WorkKey, Float32] = OrderedDict()
        self._num_bytes = 0
        self._num_hits = 0
        self._num_misses = 0
        self._num_evictions = 0

    def get(self, key: WorkKey) -> Float32 | None:
        """Return the row computed for `key`, which cannot be written to, or None."""
        row = self._rows.get(key)
        if row is None:
            self._num_misses += 1
            return None
        self._num_hits += 1
        self._rows.move_to_end(key)
        return row

    def put(self, key: WorkKey, row: Float32) -> None:
        """Keep a copy of `row`, unless there is one or it is larger than the whole cache."""
        size = _num_bytes(key, row)
        if key in self._rows or size > self._max_bytes:
            return
        # A row is a view of its whole batch, which it would keep in memory.
        kept = row.copy()
        kept.flags.writeable = False
        self._rows[key] = kept
        self._num_bytes += size
        while self._num_bytes > self._max_bytes:
            oldest, dropped = self._rows.popitem(last=False)
            self._num_bytes -= _num_bytes(oldest, dropped)
            self._num_evictions += 1

    def statistics(self) -> CacheStatistics:
        """Return what became of it so far."""
        return CacheStatistics(
            self._num_hits,
            self._num_misses,
            self._num_evictions,
            len(self._rows),
            self._num_bytes,
        )


def _num_bytes(key: WorkKey, row: Float32) -> int:
    ids, types, _ = key
    return row.nbytes + len(ids) + len(types or b"") + ENTRY_OVERHEAD_BYTES
