"""What a batch costs in time, learnt from those that have finished.

seconds = token_s x tokens + pair_s x pairs + batch_s, where a sequence of n tokens has n x n pairs,
as attention computes them, and padding counts as tokens. Pure: no clock, no lock, no event loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What a batch is taken to cost until enough of them were seen: 15 tokens were measured for the
# forward pass alone, more with the way there and back.
DEFAULT_OVERHEAD_NUM_TOKENS = 64.0
MIN_OBSERVED_BATCHES = 64
# No forward pass is over sooner; what claims to be is a clock that was set back.
MIN_OBSERVED_S = 1e-6
REFIT_AFTER_BATCHES = 16
# About the last 200 batches count: seconds under load, so a machine that changes is followed.
FORGETTING = 0.995
# What is believed where batches are too alike to tell, beside the weight 1 of what was seen: that
# an overhead is the default's, and, with more certainty, that pairs cost nothing.
OVERHEAD_PRIOR_WEIGHT = 1e-4
PAIRS_PRIOR_WEIGHT = 3e-3
# Whatever was measured, batches stay between these. At a fourth of the true overhead, or at four
# times as much, a simulation loses 1 to 6 % of its throughput.
MIN_OVERHEAD_NUM_TOKENS = 16.0
MAX_OVERHEAD_NUM_TOKENS = 256.0
MAX_PAIR_NUM_TOKENS = 1 / 128

_TOKENS, _PAIRS, _BATCH = range(3)
# A token always costs something; the rest may turn out to be nothing.
_CANDIDATES = ((_TOKENS, _PAIRS, _BATCH), (_TOKENS, _BATCH), (_TOKENS, _PAIRS), (_TOKENS,))

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What a batch costs beside its tokens, as so many tokens.

    overhead_num_tokens: of the batch itself. pair_num_tokens: of a pair of tokens in a sequence.
    """

    overhead_num_tokens: float = DEFAULT_OVERHEAD_NUM_TOKENS
    pair_num_tokens: float = 0.0

    def of_sequence(self, num_tokens: int) -> float:
        """Return what a sequence adds to a batch in which it is the longest."""
        return num_tokens * (1.0 + self.pair_num_tokens * num_tokens)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be computed, or was: tokens, pairs of tokens within a sequence, batches."""

    num_tokens: int
    num_pairs: int
    num_batches: int = 1

    @classmethod
    def of_batch(cls, lengths: Sequence[int]) -> "Workload":
        """Return the work of one batch of sequences, padded to the longest."""
        longest, size = max(lengths), len(lengths)
        return cls(longest * size, longest * longest * size)

    @classmethod
    def of_sequences(cls, lengths: Sequence[int]) -> "Workload":
        """Return the work of sequences in one batch without padding, the least it can be."""
        return cls(sum(lengths), sum(length * length for length in lengths))


class CostModel:
    """Fits the cost of batches to the times they took.

    Each time counts by its relative error, so short batches tell as much as long ones, and a batch
    that the machine held up for long tells next to nothing. Sums of squares are all that is kept.
    """

    def __init__(self) -> None:
        # Of rows [tokens, pairs, 1] / seconds, which the cost is to turn into 1.
        self._products: Float64 = np.zeros((3, 3))
        self._sums: Float64 = np.zeros(3)
        self._num_observed = 0
        self._seconds: Float64 | None = None
        self._cost = BatchCost()

    @property
    def cost(self) -> BatchCost:
        """What batches are to be cut by; the default until enough of them were seen."""
        return self._cost

    def observe(self, work: Workload, seconds: float) -> None:
        """Learn from one batch."""
        if seconds < MIN_OBSERVED_S:
            return
        row = np.array([work.num_tokens, work.num_pairs, work.num_batches]) / seconds
        self._products = FORGETTING * self._products + np.outer(row, row)
        self._sums = FORGETTING * self._sums + row
        self._num_observed += 1
        is_due = self._num_observed % REFIT_AFTER_BATCHES == 0
        if is_due and self._num_observed >= MIN_OBSERVED_BATCHES:
            self._seconds = _fit(self._products, self._sums)
            self._cost = _bounded(self._seconds)

    def estimate_s(self, work: Workload) -> float | None:
        """Return how long one slot computes at `work`; None until enough batches were seen."""
        if self._seconds is None:
            return None
        return float(self._seconds @ [work.num_tokens, work.num_pairs, work.num_batches])


def _fit(products: Float64, sums: Float64) -> Float64:
    """Return the seconds of a token, a pair and a batch, none below 0, by least squares."""
    # Brought to one size first: pairs are many, batches few.
    scale = np.sqrt(np.diag(products))
    scaled, wanted = products / np.outer(scale, scale), sums / scale
    scaled += _prior(scale)
    best: Float64 = np.zeros(3)
    best_error = 0.0
    for candidate in _CANDIDATES:
        columns = list(candidate)
        solved = np.linalg.solve(scaled[np.ix_(columns, columns)], wanted[columns])
        # Up to a constant, and twice as large with both signs turned.
        error = -float(solved @ wanted[columns])
        if (solved >= 0).all() and error < best_error:
            best, best_error = np.zeros(3), error
            best[columns] = solved
    return best / scale


def _prior(scale: Float64) -> Float64:
    """Say that pairs cost nothing and a batch as many tokens as the default, in squares."""
    overhead = np.array([DEFAULT_OVERHEAD_NUM_TOKENS * scale[_BATCH] / scale[_TOKENS], 0, -1])
    # However many tokens that is, the belief is to weigh the same.
    overhead /= np.abs(overhead).max()
    beliefs: Float64 = OVERHEAD_PRIOR_WEIGHT * np.outer(overhead, overhead)
    beliefs[_PAIRS, _PAIRS] += PAIRS_PRIOR_WEIGHT
    return beliefs


def _bounded(seconds: Float64) -> BatchCost:
    token_s, pair_s, batch_s = seconds
    if token_s <= 0:
        return BatchCost()
    overhead = min(max(batch_s / token_s, MIN_OVERHEAD_NUM_TOKENS), MAX_OVERHEAD_NUM_TOKENS)
    return BatchCost(float(overhead), float(min(pair_s / token_s, MAX_PAIR_NUM_TOKENS)))
