from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.scheduler.cost import (
    MAX_OVERHEAD_NUM_TOKENS,
    MAX_PAIR_NUM_TOKENS,
    MIN_OBSERVED_BATCHES,
    MIN_OVERHEAD_NUM_TOKENS,
    BatchCost,
    CostModel,
    Workload,
)

TOKEN_S = 1e-4


def batches(number: int, seed: int = 0) -> Iterator[Workload]:
    """Batches as they are cut: of one length each, 8 to 238 tokens, up to 1,024 together."""
    source = np.random.default_rng(seed)
    for _ in range(number):
        length = int(8 * 30 ** source.random())
        size = int(source.integers(1, 1024 // length + 1))
        yield Workload.of_batch([length] * size)


def seconds(work: Workload, *, overhead: float, pair: float = 0.0) -> float:
    return TOKEN_S * (work.num_tokens + pair * work.num_pairs + overhead * work.num_batches)


def learnt(
    overhead: float, pair: float = 0.0, *, noise: float = 0.0, number: int = 400
) -> CostModel:
    """A model that saw batches of a known cost; noise: standard deviation of the time's log."""
    source = np.random.default_rng(1)
    model = CostModel()
    for work in batches(number):
        factor = float(np.exp(noise * source.standard_normal()))
        model.observe(work, factor * seconds(work, overhead=overhead, pair=pair))
    return model


def test_padding_counts_as_tokens_and_pairs() -> None:
    assert Workload.of_batch([3, 10, 7]) == Workload(30, 300, 1)


@pytest.mark.parametrize(("overhead", "pair"), [(24, 0.0), (64, 0.002), (150, 0.005)])
def test_the_cost_is_found_exactly_where_times_are_exact(overhead: float, pair: float) -> None:
    cost = learnt(overhead, pair).cost

    assert cost.overhead_num_tokens == pytest.approx(overhead, rel=0.02)
    assert cost.pair_num_tokens == pytest.approx(pair, rel=0.02, abs=1e-5)


@pytest.mark.parametrize(("overhead", "pair"), [(24, 0.0), (64, 0.002), (150, 0.005)])
def test_the_cost_is_found_in_noise(overhead: float, pair: float) -> None:
    cost = learnt(overhead, pair, noise=0.2).cost

    assert cost.overhead_num_tokens == pytest.approx(overhead, rel=0.25)
    assert cost.pair_num_tokens == pytest.approx(pair, rel=0.25, abs=5e-4)


def test_batches_that_the_machine_held_up_change_little() -> None:
    model = CostModel()
    for number, work in enumerate(batches(400)):
        delay = 20 if number % 20 == 0 else 1
        model.observe(work, delay * seconds(work, overhead=64, pair=0.002))

    assert model.cost.overhead_num_tokens == pytest.approx(64, rel=0.25)


def test_nothing_is_claimed_until_enough_batches_were_seen() -> None:
    before = learnt(24, number=MIN_OBSERVED_BATCHES - 1)
    after = learnt(24, number=MIN_OBSERVED_BATCHES)

    assert before.cost == BatchCost()
    assert before.estimate_s(Workload(100, 1000)) is None
    assert after.cost != BatchCost()
    assert after.estimate_s(Workload(100, 1000)) is not None


def test_batches_that_are_all_alike_tell_nothing_of_the_overhead() -> None:
    model = CostModel()
    for _ in range(200):
        model.observe(Workload.of_batch([16]), 3e-3)

    assert model.cost.overhead_num_tokens == pytest.approx(BatchCost().overhead_num_tokens)
    assert model.estimate_s(Workload.of_batch([16])) == pytest.approx(3e-3)


def test_an_estimate_is_the_time_that_such_work_took() -> None:
    work = Workload(5_000, 400_000, 6)

    estimate = learnt(40, 0.002, noise=0.1).estimate_s(work)

    assert estimate == pytest.approx(seconds(work, overhead=40, pair=0.002), rel=0.05)


def test_a_machine_that_becomes_slower_is_followed() -> None:
    model = learnt(40)
    for work in batches(1000, seed=2):
        model.observe(work, 2 * seconds(work, overhead=40))

    work = Workload(5_000, 400_000, 6)
    assert model.estimate_s(work) == pytest.approx(2 * seconds(work, overhead=40), rel=0.05)


@given(
    st.lists(
        st.tuples(st.integers(1, 8192), st.integers(1, 64), st.floats(0, 1e4)),
        min_size=4,
        max_size=40,
    )
)
def test_whatever_was_measured_the_cost_stays_within_its_bounds(
    observed: list[tuple[int, int, float]],
) -> None:
    model = CostModel()
    for length, size, took_s in observed * (MIN_OBSERVED_BATCHES // len(observed) + 1):
        model.observe(Workload.of_batch([length] * size), took_s)

    assert MIN_OVERHEAD_NUM_TOKENS <= model.cost.overhead_num_tokens <= MAX_OVERHEAD_NUM_TOKENS
    assert 0 <= model.cost.pair_num_tokens <= MAX_PAIR_NUM_TOKENS
    estimate = model.estimate_s(Workload(100, 1000))
    assert estimate is None or 0 <= estimate < float("inf")
