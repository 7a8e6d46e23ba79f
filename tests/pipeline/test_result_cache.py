import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.fakes import LABELS, FakeEngine, make_manifest, make_tokenizer

from beicli.model.spec import Task
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.pipeline.pipeline import InferencePipeline
from beicli.pipeline.result_cache import ENTRY_OVERHEAD_BYTES, CacheStatistics, ResultCache
from beicli.pipeline.tokenizer import Truncation, TruncationDirection
from beicli.scheduler.requests import WorkKey

T = TypeVar("T")
MIB = 1024 * 1024


def key(number: int) -> WorkKey:
    return number.to_bytes(4, "little"), None, False


def row(number: int, width: int = 8) -> np.ndarray:
    return np.full(width, number, dtype=np.float32)


def size(width: int = 8) -> int:
    return 4 + 4 * width + ENTRY_OVERHEAD_BYTES


def ask_with_cache(
    engine: FakeEngine,
    questions: Callable[[InferencePipeline], Awaitable[T]],
    *,
    max_bytes: int = MIB,
) -> T:
    async def run() -> T:
        with InferencePipeline(
            make_manifest(engine.task),
            make_tokenizer(),
            engine,
            limits=PipelineLimits(result_cache_bytes=max_bytes),
        ) as pipeline:
            return await questions(pipeline)

    return asyncio.run(run())


def test_what_was_used_least_recently_goes_first() -> None:
    cache = ResultCache(3 * size())
    for number in range(3):
        cache.put(key(number), row(number))
    cache.get(key(0))
    cache.put(key(3), row(3))

    assert [cache.get(key(number)) is not None for number in range(4)] == [True, False, True, True]
    assert cache.statistics() == CacheStatistics(4, 1, 1, 3, 3 * size())


def test_a_row_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache = ResultCache(2 * size())
    cache.put(key(0), row(0))
    cache.put(key(1), row(1, width=1000))

    assert cache.get(key(0)) is not None
    assert cache.get(key(1)) is None


def test_what_is_kept_is_a_copy_that_nobody_can_change() -> None:
    cache = ResultCache(MIB)
    batch = np.zeros((100, 8), dtype=np.float32)
    cache.put(key(0), batch[0])
    batch[0] = 7

    kept = cache.get(key(0))
    assert kept is not None
    assert kept.tolist() == [0] * 8
    assert kept.base is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 200)), max_size=60))
def test_the_limit_is_kept_and_a_key_never_gives_another_row(
    puts: list[tuple[int, int]],
) -> None:
    cache = ResultCache(4000)
    widths: dict[int, int] = {}
    for number, width in puts:
        if cache.get(key(number)) is None:
            cache.put(key(number), row(number, width))
            widths[number] = width
        found = {number: cache.get(key(number)) for number in widths}
        kept = {number: values for number, values in found.items() if values is not None}
        assert all(values.tolist() == [n] * widths[n] for n, values in kept.items())
        statistics = cache.statistics()
        assert statistics.num_entries == len(kept)
        assert statistics.num_bytes == sum(size(widths[n]) for n in kept) <= 4000


def test_its_limit_is_the_memory_it_takes() -> None:
    cache = ResultCache(2 * MIB)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5000):
            cache.put((number.to_bytes(64, "little"), None, False), row(number, 96))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert 0.7 * cache.statistics().num_bytes < taken < 1.15 * 2 * MIB


@pytest.mark.parametrize("task", [*LABELS, Task.EMBEDDING, Task.SPARSE_EMBEDDING])
def test_an_answer_from_the_cache_is_the_computed_one_bit_for_bit(task: Task) -> None:
    engine = FakeEngine(task)

    async def questions(pipeline: InferencePipeline) -> tuple[list[bytes], list[bytes], int]:
        first = await pipeline.outputs(["w1 w2", "w3 w4"])
        num_computed = engine.num_sequences
        second = await pipeline.outputs(["w3 w4", "w1 w2"])
        assert engine.num_sequences == num_computed
        return [r.tobytes() for r in first], [r.tobytes() for r in second], num_computed

    first, second, num_computed = ask_with_cache(engine, questions)

    assert first == second[::-1]
    assert num_computed == 2


def test_rankings_are_answered_from_the_cache() -> None:
    engine = FakeEngine(Task.RERANKING)

    async def questions(pipeline: InferencePipeline) -> tuple[list[float], list[float]]:
        first = await pipeline.rerank("w1", ["w2", "w3"])
        second = await pipeline.rerank("w1", ["w4", "w3", "w2"])
        return first.scores.tolist(), second.scores.tolist()

    first, second = ask_with_cache(engine, questions)

    assert second[:0:-1] == first
    assert engine.num_sequences == 3


def test_usage_is_that_of_a_computed_answer() -> None:
    engine = FakeEngine()
    texts = ["w1 " * 40, "w2", "w2 w3"]

    async def questions(pipeline: InferencePipeline) -> list[tuple[int, tuple[int, ...], int]]:
        usages = [(await pipeline.embed(texts)).usage for _ in range(2)]
        assert usages[1].timing.queue_s == usages[1].timing.inference_s == 0
        return [(u.num_tokens, u.input_lengths, u.num_truncated_inputs) for u in usages]

    first, second = ask_with_cache(engine, questions)

    assert first == second == (16 + 3 + 4, (42, 3, 4), 1)
    assert engine.num_sequences == 3


def test_dimensions_and_normalisation_are_made_from_the_same_row() -> None:
    engine = FakeEngine()

    async def questions(pipeline: InferencePipeline) -> None:
        full = await pipeline.embed(["w1"], normalize=False)
        short = await pipeline.embed(["w1"], dimensions=4)
        wanted = full.embeddings[:, :4] / np.linalg.norm(full.embeddings[:, :4])
        assert np.allclose(short.embeddings, wanted)

    ask_with_cache(engine, questions)

    assert engine.num_sequences == 1


def test_what_makes_other_tokens_is_computed() -> None:
    engine = FakeEngine()
    long = " ".join(f"w{number}" for number in range(30))

    async def questions(pipeline: InferencePipeline) -> None:
        for direction in TruncationDirection:
            await pipeline.embed([long], truncation=Truncation(direction=direction))
        await pipeline.embed(["w1"], prompt="w9 ")
        await pipeline.embed(["w1"])
        await pipeline.embed(["w9 w1"])
        # Of the same tokens another output.
        await pipeline.embed_tokens(["w1"])

    ask_with_cache(engine, questions)

    assert engine.num_sequences == 5


def test_without_a_cache_every_request_is_computed() -> None:
    engine = FakeEngine()

    async def questions(pipeline: InferencePipeline) -> CacheStatistics | None:
        await pipeline.embed(["w1"])
        await pipeline.embed(["w1"])
        return pipeline.cache_statistics()

    assert ask_with_cache(engine, questions, max_bytes=0) is None
    assert engine.num_sequences == 2


def test_an_input_that_fails_is_not_kept() -> None:
    engine = FakeEngine(poison_id=5)

    async def questions(pipeline: InferencePipeline) -> CacheStatistics | None:
        await asyncio.gather(pipeline.embed(["w1"]), return_exceptions=True)
        await asyncio.gather(pipeline.embed(["w1"]), return_exceptions=True)
        return pipeline.cache_statistics()

    assert ask_with_cache(engine, questions) == CacheStatistics(0, 2, 0, 0, 0)
