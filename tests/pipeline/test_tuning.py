from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.engine.batch import TokenSequence
from beicli.pipeline.tuning import choose, cut, slot_counts


@pytest.mark.parametrize(
    ("num_cpus", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])],
)
def test_slots_go_from_one_with_every_thread_to_one_for_each(
    num_cpus: int, expected: list[int]
) -> None:
    assert slot_counts(num_cpus) == expected


def test_of_what_is_about_as_fast_the_first_is_taken() -> None:
    assert choose({"one slot": 99.0, "two slots": 100.0, "four slots": 90.0}) == "one slot"
    assert choose({"one slot": 90.0, "two slots": 100.0}) == "two slots"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.sampled_from([64, 200, 1000]))
def test_a_cut_keeps_every_sequence_and_to_its_size(lengths: list[int], size: int) -> None:
    sequences = [TokenSequence(np.full(length, 7, np.int32)) for length in lengths]

    groups = list(cut(sequences, size))

    assert Counter(len(each) for group in groups for each in group) == Counter(lengths)
    for group in groups:
        assert len(group) == 1 or len(group) * max(map(len, group)) <= size
