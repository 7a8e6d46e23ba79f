import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.workload import Workload, plan_workload
from beicli.datasets import Dataset, bundled_dataset

TEXTS = st.lists(
    st.text("ab 1", min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=30, unique=True
)
COUNTS = st.integers(min_value=1, max_value=8)
SEEDS = st.integers(min_value=0, max_value=3)


def plan(texts: list[str], concurrency: int, batch_size: int, seed: int) -> Workload:
    dataset = Dataset(name="test", texts=tuple(texts))
    return plan_workload(dataset, concurrency=concurrency, batch_size=batch_size, seed=seed)


@given(TEXTS, COUNTS, COUNTS, SEEDS)
def test_no_text_belongs_to_two_clients(
    texts: list[str], concurrency: int, batch_size: int, seed: int
) -> None:
    workload = plan(texts, concurrency, batch_size, seed)

    owners = Counter(text for share in workload.shares for text in share)
    assert len(workload.shares) == concurrency
    assert set(owners.values()) == {1}


@given(TEXTS, COUNTS, COUNTS, SEEDS)
def test_every_request_is_full_and_holds_no_text_twice(
    texts: list[str], concurrency: int, batch_size: int, seed: int
) -> None:
    workload = plan(texts, concurrency, batch_size, seed)

    for client in range(concurrency):
        for batch in workload.batches_in_one_pass(client):
            assert len(set(batch)) == len(batch) == batch_size


@given(TEXTS, COUNTS, COUNTS, SEEDS)
def test_one_pass_sends_every_text_of_the_dataset(
    texts: list[str], concurrency: int, batch_size: int, seed: int
) -> None:
    workload = plan(texts, concurrency, batch_size, seed)

    passes = (workload.batches_in_one_pass(client) for client in range(concurrency))
    sent = set(itertools.chain.from_iterable(itertools.chain.from_iterable(passes)))
    assert sent >= set(texts)


@given(TEXTS, COUNTS, COUNTS, SEEDS)
def test_the_same_seed_gives_the_same_requests(
    texts: list[str], concurrency: int, batch_size: int, seed: int
) -> None:
    first = plan(texts, concurrency, batch_size, seed)
    second = plan(texts, concurrency, batch_size, seed)

    assert first == second


@given(TEXTS, COUNTS, COUNTS, SEEDS)
def test_variants_are_made_only_as_far_as_texts_are_missing(
    texts: list[str], concurrency: int, batch_size: int, seed: int
) -> None:
    workload = plan(texts, concurrency, batch_size, seed)

    sent = {text for share in workload.shares for text in share}
    assert workload.num_texts == max(len(texts), concurrency * batch_size)
    assert (sent == set(texts)) == (len(texts) >= concurrency * batch_size)


def test_another_seed_gives_another_order() -> None:
    texts = list(bundled_dataset().texts)

    assert plan(texts, 4, 2, seed=0) != plan(texts, 4, 2, seed=1)


def test_a_variant_has_the_words_of_its_original_in_another_order() -> None:
    workload = plan(["one two three"], concurrency=3, batch_size=1, seed=0)

    texts = {text for share in workload.shares for text in share}
    assert texts == {"one two three", "two three one", "three one two"}


def test_a_single_word_gets_a_number_when_it_must_differ() -> None:
    workload = plan(["word"], concurrency=1, batch_size=3, seed=0)

    assert set(workload.shares[0]) == {"word", "word 1", "word 2"}


def test_mean_characters_is_that_of_the_texts_sent() -> None:
    assert plan(["ab", "abcd"], concurrency=1, batch_size=1, seed=0).mean_characters == 3
