import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.calibration import words_for_length
from beicli.bench.texts import mixed_texts, texts_of_length
from beicli.datasets import Dataset, bundled_dataset
from beicli.errors import BenchError

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=9).map(" ".join)
DATASETS = st.lists(WORDS, min_size=1, max_size=9, unique=True).map(
    lambda texts: Dataset(name="test", texts=tuple(texts))
)


@given(DATASETS, st.integers(min_value=1, max_value=12), st.integers(min_value=1, max_value=20))
def test_made_texts_are_different_and_of_so_many_words(
    dataset: Dataset, num_words: int, num_texts: int
) -> None:
    made = texts_of_length(dataset, num_words, num_texts=num_texts, seed=0)

    assert len(set(made.texts)) == len(made.texts) == num_texts
    assert {len(text.split()) for text in made.texts} == {num_words}


def test_made_texts_consist_of_the_datasets_words_in_their_order() -> None:
    made = texts_of_length(bundled_dataset(), 20, num_texts=50, seed=0)

    running = " ".join(word for text in bundled_dataset().texts for word in text.split())
    assert sum(text in running for text in made.texts) >= 48


def test_the_seed_decides_which_texts_are_made() -> None:
    def make(seed: int) -> Dataset:
        return texts_of_length(bundled_dataset(), 20, num_texts=5, seed=seed)

    assert make(1) == make(1) != make(2)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_a_mix_has_the_share_of_short_texts_asked_for(share: float) -> None:
    dataset = bundled_dataset()
    by_length = sorted(dataset.texts, key=lambda text: len(text.split()))
    longest_short = len(by_length[len(by_length) // 3].split())

    mixed = mixed_texts(dataset, share).dataset

    num_short = sum(len(text.split()) <= longest_short for text in mixed.texts)
    assert len(set(mixed.texts)) == len(mixed.texts) == len(dataset.texts)
    assert num_short == round(share * len(dataset.texts))


@given(DATASETS, st.floats(min_value=0, max_value=1))
def test_a_mix_of_a_small_dataset_has_different_texts_too(dataset: Dataset, share: float) -> None:
    texts = mixed_texts(dataset, share).dataset.texts

    assert 1 <= len(set(texts)) == len(texts)


def counting(tokens_of: Callable[[int], float | None]) -> Callable[[int], Awaitable[float | None]]:
    async def count(num_words: int) -> float | None:
        return tokens_of(num_words)

    return count


@given(
    st.integers(min_value=1, max_value=2000),
    st.floats(min_value=1, max_value=4),
    st.integers(min_value=0, max_value=3),
)
def test_calibration_comes_close_whatever_a_word_costs(
    length: int, tokens_per_word: float, num_special: int
) -> None:
    def tokens_of(num_words: int) -> float:
        return num_special + tokens_per_word * num_words

    num_words = asyncio.run(words_for_length(length, counting(tokens_of)))

    # One word more or less is the nearest that can be.
    assert abs(tokens_of(num_words) - length) <= max(0.03 * length, tokens_per_word + num_special)


def test_a_server_that_does_not_count_ends_the_calibration() -> None:
    with pytest.raises(BenchError, match="does not tell how many tokens"):
        asyncio.run(words_for_length(5, counting(lambda _: None)))
