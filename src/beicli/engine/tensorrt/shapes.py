"""How a batch is cut and padded to what a plan was compiled for. Pure: no GPU, no state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from beicli.artifact.gpu import Dimensions, Profile
from beicli.engine.batch import Batch
from beicli.errors import EngineError

# TensorRT's kernels work in tiles of eight or more, and every shape that is new costs time.
LENGTH_STEP = 8
# Of small batches, which are recorded for each shape: fewer, wider steps above the first.
_BUCKET_STEP = 16


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One run of the network.

    batch: as it came; sequences beyond it are dummies. dimensions: to which it is padded.
    profile: its number. is_bucket: whether others of nearly this size are padded to the same.
    """

    batch: Batch
    dimensions: Dimensions
    profile: int
    is_bucket: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of inputs that are not padded to `dimensions`, with what they are filled up by."""
        # Of a bucket there shall be only one size.
        most = self.dimensions.num_tokens
        return most if self.is_bucket else min(_round_up(self.batch.num_tokens, LENGTH_STEP), most)


def padded_length(num_tokens: int, max_length: int) -> int:
    """Return the next multiple of 8, but not above what one input may have."""
    return max(num_tokens, min(_round_up(num_tokens, LENGTH_STEP), max_length))


def plan_passes(
    batch: Batch, profiles: Sequence[Profile], *, max_length: int, has_buckets: bool
) -> Iterator[Pass]:
    """Give the passes that compute a batch, in its order; more than one if no profile admits it.

    profiles: smallest first. max_length: tokens of one input. has_buckets: whether batches that the
    smallest profile admits are padded to one of a few sizes.
    Raises EngineError if a sequence is longer than every profile.
    """
    num_sequences, length = batch.num_sequences, padded_length(batch.longest, max_length)
    number = _choose_profile(profiles, num_sequences, length)
    if number is None:
        piece = _most_sequences(profiles, length)
        for start in range(0, num_sequences, piece):
            part = cut(batch, start, min(start + piece, num_sequences))
            yield from plan_passes(part, profiles, max_length=max_length, has_buckets=has_buckets)
        return
    dimensions = Dimensions(num_sequences=num_sequences, length=length)
    is_bucket = has_buckets and number == 0
    yield Pass(
        batch=batch,
        dimensions=bucket(dimensions, profiles[0]) if is_bucket else dimensions,
        profile=number,
        is_bucket=is_bucket,
    )


def bucket(dimensions: Dimensions, profile: Profile) -> Dimensions:
    """Return the size that a small batch is padded to: 1, 2, 4, 8 ... sequences of 8, 16, 32 ..."""
    num_sequences = 1 << (dimensions.num_sequences - 1).bit_length()
    length = dimensions.length
    if length > LENGTH_STEP:
        length = _round_up(length, _BUCKET_STEP)
    # A profile may end, or begin, between two of them.
    return Dimensions(
        num_sequences=_within(
            num_sequences, profile.minimum.num_sequences, profile.maximum.num_sequences
        ),
        length=_within(length, profile.minimum.length, profile.maximum.length),
    )


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Return the sequences from `start` to before `stop` as a batch."""
    ends = batch.cu_seqlens[start : stop + 1]
    tokens = slice(int(ends[0]), int(ends[-1]))
    type_ids = batch.token_type_ids
    return replace(
        batch,
        input_ids=batch.input_ids[tokens],
        cu_seqlens=ends - ends[0],
        token_type_ids=None if type_ids is None else type_ids[tokens],
    )


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return the first and the second half of a batch of at least two sequences."""
    middle = batch.num_sequences // 2
    return cut(batch, 0, middle), cut(batch, middle, batch.num_sequences)


def with_dummies(batch: Batch, num_sequences: int, pad_token_id: int) -> Batch:
    """Return the batch with sequences of one token behind it, `num_sequences` in all.

    One token, not none: attention over nothing divides by zero.
    """
    num_dummies = num_sequences - batch.num_sequences
    if num_dummies == 0:
        return batch
    end = batch.num_tokens
    type_ids = batch.token_type_ids
    return replace(
        batch,
        input_ids=np.pad(batch.input_ids, (0, num_dummies), constant_values=pad_token_id),
        cu_seqlens=np.concatenate(
            [batch.cu_seqlens, np.arange(end + 1, end + num_dummies + 1, dtype=np.int32)]
        ),
        token_type_ids=None if type_ids is None else np.pad(type_ids, (0, num_dummies)),
    )


def _choose_profile(profiles: Sequence[Profile], num_sequences: int, length: int) -> int | None:
    numbers = (number for number, each in enumerate(profiles) if each.admits(num_sequences, length))
    return next(numbers, None)


def _most_sequences(profiles: Sequence[Profile], length: int) -> int:
    admitting = [each.maximum.num_sequences for each in profiles if each.admits(1, length)]
    if not admitting:
        longest = max(each.maximum.length for each in profiles)
        raise EngineError(
            f"a sequence of {length:,} tokens is longer than the plan admits, {longest:,}",
            hint="rebuild the engine with `bei build`, with a larger `max_num_tokens`",
        )
    return max(admitting)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _within(number: int, least: int, most: int) -> int:
    return max(least, min(number, most))
