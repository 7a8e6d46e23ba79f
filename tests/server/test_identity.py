"""Everyone gets the vectors of their own texts, whoever else asks, leaves or sends poison."""

import asyncio
import base64
import random
from collections import deque
from dataclasses import dataclass

import aiohttp
import numpy as np
import pytest
from tests.server.fakes import (
    FIRST_WORD_ID,
    NUM_WORDS,
    TIMEOUT_S,
    FakeEngine,
    live_server,
    vector,
    word_ids,
)

from beicli.engine.batch import Float32
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.server.options import ServerOptions

NUM_CLIENTS = 500
POISON = NUM_WORDS - 1
REQUEST_SIZES = (1, 1, 1, 2, 5, 16, 32)

Text = tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """One request; patience_s: after which its client leaves, None for one that stays."""

    texts: tuple[Text, ...]
    patience_s: float | None = None
    is_poisoned: bool = False

    def again(self) -> "Job":
        """The same texts, asked for by somebody who means it."""
        return Job(tuple(text for text in self.texts if POISON not in text))


def make_jobs(num_texts: int, seed: int) -> deque[Job]:
    """Deal distinct texts of one to nine words out to requests of many sizes."""
    source = random.Random(seed)
    texts: dict[Text, None] = {}
    while len(texts) < num_texts:
        length = source.randint(1, 9)
        texts[tuple(source.randrange(POISON) for _ in range(length))] = None
    left, jobs = list(texts), deque[Job]()
    while left:
        size = source.choice(REQUEST_SIZES)
        taken, left = tuple(left[:size]), left[size:]
        kind = source.random()
        if kind < 0.1:
            jobs.append(Job(taken, patience_s=source.random() * 0.05))
        elif kind < 0.12:
            place = source.randint(0, len(taken))
            poisoned = (*taken[:place], (1, POISON, place), *taken[place:])
            jobs.append(Job(poisoned, is_poisoned=True))
        else:
            jobs.append(Job(taken))
    return jobs


class Crowd:
    """Clients that take jobs until there are none; right: texts that got their own vector."""

    def __init__(self, session: aiohttp.ClientSession, jobs: deque[Job]) -> None:
        self.right: set[Text] = set()
        self.num_left = self.num_poisoned = 0
        self._session = session
        self._jobs = jobs

    async def client(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            try:
                async with asyncio.timeout(job.patience_s):
                    status, rows = await self._ask(job.texts)
            except TimeoutError:
                self.num_left += 1
                self._jobs.append(job.again())
                continue
            if job.is_poisoned:
                assert status == 424
                self.num_poisoned += 1
                self._jobs.append(job.again())
                continue
            assert status == 200
            expected = [vector(word_ids(*text)) for text in job.texts]
            np.testing.assert_allclose(rows, expected, atol=1e-6)
            self.right.update(job.texts)

    async def _ask(self, texts: tuple[Text, ...]) -> tuple[int, list[Float32]]:
        sent = [" ".join(f"w{number}" for number in text) for text in texts]
        body = {"input": sent, "encoding_format": "base64"}
        async with self._session.post("/v1/embeddings", json=body) as response:
            items = (await response.json()).get("data", [])
        assert [item["index"] for item in items] == list(range(len(items)))
        rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items]
        return response.status, rows


@pytest.mark.parametrize(
    ("num_texts", "result_cache_bytes"), [(10_000, 0), (2_000, 50_000)], ids=["plain", "cached"]
)
def test_every_text_gets_its_own_vector_from_a_crowd_of_which_some_leave(
    num_texts: int, result_cache_bytes: int
) -> None:
    jobs = make_jobs(num_texts, seed=num_texts)
    wanted = {text for job in jobs for text in job.again().texts}
    if result_cache_bytes:
        # A second time, when some of them are in the cache and some have left it.
        jobs.extend([job.again() for job in jobs])
    options = ServerOptions(port=0, pipeline=PipelineLimits(result_cache_bytes=result_cache_bytes))

    async def run(url: str) -> Crowd:
        async with aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=3 * TIMEOUT_S),
        ) as session:
            crowd = Crowd(session, jobs)
            await asyncio.gather(*(crowd.client() for _ in range(NUM_CLIENTS)))
            return crowd

    with live_server(FakeEngine(num_slots=2, poison_id=FIRST_WORD_ID + POISON), options) as server:
        crowd = asyncio.run(run(server.url))

    assert crowd.right == wanted
    assert len(wanted) == num_texts
    # The crowd was one: some had left before they were answered, some were refused.
    assert crowd.num_left > 0
    assert crowd.num_poisoned > 0
