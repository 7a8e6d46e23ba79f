"""How a server fills its batches, from the difference of two readings of its `/metrics`.

Pure. Only servers that count padding tell enough: those of this project do.
"""

import re
from dataclasses import dataclass

_LINE = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_NAMES = {
    "num_batches": "te_batch_next_size_count",
    "num_sequences": "te_batch_next_size_sum",
    "num_tokens": "te_batch_next_tokens_sum",
    "num_padded_tokens": "bei_batch_padded_tokens_total",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """What a server has counted since it started; num_padded_tokens: those computed."""

    num_batches: float
    num_sequences: float
    num_tokens: float
    num_padded_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFill:
    """real_token_fraction: of the tokens computed, those that were no padding."""

    num_batches: int
    sequences_per_batch: float
    real_token_fraction: float


def read_batch_counts(page: str | None) -> BatchCounts | None:
    """Find the counters in a page of the Prometheus text format; None where one is missing."""
    found = dict(_LINE.findall(page or ""))
    try:
        return BatchCounts(**{key: float(found[name]) for key, name in _NAMES.items()})
    except (KeyError, ValueError):
        return None


def batch_fill(before: BatchCounts | None, after: BatchCounts | None) -> BatchFill | None:
    """Say what happened between two readings; None where nothing did, or nobody counted."""
    if before is None or after is None:
        return None
    num_batches = after.num_batches - before.num_batches
    num_padded_tokens = after.num_padded_tokens - before.num_padded_tokens
    # Fewer than before means that the server was restarted in between.
    if num_batches <= 0 or num_padded_tokens <= 0:
        return None
    return BatchFill(
        num_batches=round(num_batches),
        sequences_per_batch=(after.num_sequences - before.num_sequences) / num_batches,
        real_token_fraction=(after.num_tokens - before.num_tokens) / num_padded_tokens,
    )
