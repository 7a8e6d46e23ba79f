from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.tensorrt.toys import PROFILES, make_sequences, profile

from beicli.artifact.gpu import Dimensions, Profile
from beicli.engine.batch import Batch
from beicli.engine.tensorrt.shapes import (
    Pass,
    bucket,
    cut,
    halves,
    padded_length,
    plan_passes,
    with_dummies,
)
from beicli.errors import EngineError

MAX_LENGTH = 200
LENGTHS = st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=40)


def batch_of(lengths: Sequence[int], *, has_types: bool = False) -> Batch:
    sequences = make_sequences(np.random.default_rng(0), *lengths, has_types=has_types)
    return Batch.from_sequences(sequences)


def passes_of(
    *lengths: int, has_buckets: bool = False, profiles: Sequence[Profile] = PROFILES
) -> list[Pass]:
    return list(
        plan_passes(batch_of(lengths), profiles, max_length=MAX_LENGTH, has_buckets=has_buckets)
    )


@pytest.mark.parametrize(
    ("num_tokens", "padded"), [(1, 8), (8, 8), (9, 16), (190, 192), (193, 197), (197, 197)]
)
def test_a_length_is_a_multiple_of_8_but_never_above_the_limit(
    num_tokens: int, padded: int
) -> None:
    assert padded_length(num_tokens, 197) == padded


@pytest.mark.parametrize(
    ("lengths", "number"),
    [
        ([5], 0),
        ([32] * 4, 0),
        ([5] * 5, 1),
        ([33], 1),
        ([64] * 12, 1),
        ([65], 2),
        ([200] * 3, 2),
    ],
)
def test_a_batch_takes_the_smallest_profile_that_admits_it(lengths: list[int], number: int) -> None:
    (work,) = passes_of(*lengths)

    assert work.profile == number
    assert PROFILES[number].admits(work.dimensions.num_sequences, work.dimensions.length)


def test_a_batch_that_no_profile_admits_is_cut_into_as_few_passes_as_its_length_allows() -> None:
    lengths = [100] + [10] * 6

    passes = passes_of(*lengths)

    # Three beside a long one; the others find larger profiles.
    assert [work.batch.num_sequences for work in passes] == [3, 3, 1]
    assert [work.profile for work in passes] == [2, 0, 0]


def test_a_sequence_above_every_profile_is_an_error_that_says_what_is_admitted() -> None:
    with pytest.raises(EngineError, match="208 tokens is longer than the plan admits, 200"):
        list(plan_passes(batch_of([201]), PROFILES, max_length=500, has_buckets=False))


@given(lengths=LENGTHS, has_buckets=st.booleans())
def test_passes_hold_every_sequence_once_in_order_each_within_its_profile(
    lengths: list[int], *, has_buckets: bool
) -> None:
    whole = batch_of(lengths)

    passes = passes_of(*lengths, has_buckets=has_buckets)

    assert np.array_equal(np.concatenate([p.batch.input_ids for p in passes]), whole.input_ids)
    assert [n for p in passes for n in np.diff(p.batch.cu_seqlens)] == lengths
    for work in passes:
        size = work.dimensions
        assert work.profile < len(PROFILES)
        assert PROFILES[work.profile].admits(size.num_sequences, size.length)
        assert size.num_sequences >= work.batch.num_sequences
        assert size.length >= work.batch.longest
        assert work.is_bucket == (has_buckets and work.profile == 0)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((1, 8), (1, 8)), ((3, 16), (4, 16)), ((5, 24), (8, 32)), ((7, 56), (7, 60))],
)
def test_buckets_are_powers_of_two_and_multiples_of_16_within_their_profile(
    size: tuple[int, int], padded: tuple[int, int]
) -> None:
    most = (7, 60) if size[0] == 7 else (8, 64)
    dimensions = Dimensions(num_sequences=size[0], length=size[1])

    found = bucket(dimensions, profile(*most))

    assert (found.num_sequences, found.length) == padded


def test_only_a_batch_for_the_smallest_profile_goes_to_a_bucket() -> None:
    (small,) = passes_of(20, 20, 20, has_buckets=True)
    (large,) = passes_of(33, 33, 33, has_buckets=True)

    assert (small.dimensions.num_sequences, small.dimensions.length) == (4, 32)
    assert (large.dimensions.num_sequences, large.dimensions.length) == (3, 40)


def test_dummies_have_one_token_each_so_that_attention_is_never_over_nothing() -> None:
    batch = with_dummies(batch_of([2, 3], has_types=True), 4, 9)

    assert list(np.diff(batch.cu_seqlens)) == [2, 3, 1, 1]
    assert list(batch.input_ids[5:]) == [9, 9]
    assert batch.token_type_ids is not None
    assert list(batch.token_type_ids[5:]) == [0, 0]
    assert batch.is_token(8).sum(axis=1).min() == 1
    assert batch.input_ids.dtype == batch.cu_seqlens.dtype == np.int32


def test_no_dummies_are_added_where_none_are_missing() -> None:
    batch = batch_of([2, 3])

    assert with_dummies(batch, 2, 9) is batch


@given(lengths=LENGTHS.filter(lambda lengths: len(lengths) > 1))
def test_two_halves_are_the_whole(lengths: list[int]) -> None:
    batch = batch_of(lengths, has_types=True)

    first, second = halves(batch)

    assert first.num_sequences + second.num_sequences == batch.num_sequences
    assert abs(first.num_sequences - second.num_sequences) <= 1
    assert batch.token_type_ids is not None
    assert first.token_type_ids is not None
    assert second.token_type_ids is not None
    joined = np.concatenate([first.input_ids, second.input_ids])
    assert np.array_equal(joined, batch.input_ids)
    types = np.concatenate([first.token_type_ids, second.token_type_ids])
    assert np.array_equal(types, batch.token_type_ids)


def test_a_part_of_a_batch_counts_from_zero_and_wants_what_the_batch_wants() -> None:
    batch = Batch.from_sequences(
        make_sequences(np.random.default_rng(0), 2, 3, 4), needs_tokens=True
    )

    part = cut(batch, 1, 3)

    assert list(part.cu_seqlens) == [0, 3, 7]
    assert part.needs_tokens
