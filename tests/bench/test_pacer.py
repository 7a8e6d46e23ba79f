import asyncio
import itertools
import time

from beicli.bench.pacer import Pacer


def test_moments_come_in_order_not_early_and_hardly_late() -> None:
    async def collect() -> list[tuple[float, float]]:
        start_s = time.perf_counter()
        moments = [start_s + 0.01 * number for number in range(1, 21)]
        pacer = Pacer(iter(moments), end_s=float("inf"))
        seen = []
        while (due_s := await pacer.next_due()) is not None:
            seen.append((due_s, time.perf_counter()))
        pacer.stop()
        assert [due_s for due_s, _ in seen] == moments
        return seen

    lateness = sorted(now_s - due_s for due_s, now_s in asyncio.run(collect()))
    assert lateness[0] >= 0
    # The median, since a busy machine may hold up any single one.
    assert lateness[10] < 0.005


def test_nothing_is_handed_out_from_the_end_on_and_everybody_learns_of_it() -> None:
    async def collect() -> list[float | None]:
        start_s = time.perf_counter()
        moments = (start_s + 0.01 * number for number in itertools.count(1))
        pacer = Pacer(moments, end_s=start_s + 0.035)
        seen = await asyncio.gather(*(pacer.next_due() for _ in range(6)))
        pacer.stop()
        return [None if due_s is None else round(due_s - start_s, 3) for due_s in seen]

    assert asyncio.run(collect()) == [0.01, 0.02, 0.03, None, None, None]


def test_moments_that_have_passed_come_at_once() -> None:
    async def collect() -> int:
        start_s = time.perf_counter()
        pacer = Pacer(iter([start_s - 1 + number / 1000 for number in range(500)]), end_s=start_s)
        num_moments = 0
        while await pacer.next_due() is not None:
            num_moments += 1
        pacer.stop()
        return num_moments

    assert asyncio.run(collect()) == 500


def test_stopping_does_not_wait_for_a_moment_far_away() -> None:
    async def stop() -> float:
        started_s = time.perf_counter()
        pacer = Pacer(iter([started_s + 60]), end_s=float("inf"))
        pacer.stop()
        assert await pacer.next_due() is None
        return time.perf_counter() - started_s

    assert asyncio.run(stop()) < 5
