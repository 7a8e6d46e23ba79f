"""The clients of a soak: those that want vectors, and those that leave, reconnect or blunder."""

import asyncio
import base64
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray
from raw_http import RawAnswer, RawConnection, embeddings, post

OK = 200
CLIENT_ERRORS = range(400, 500)
MIN_COSINE = 0.999
NUM_QUERY_CLIENTS = 4
NUM_DOCUMENT_CLIENTS = 2
NUM_DOCUMENTS = 32
# A client that leaves does so within this time, and half of them within a sixteenth of it.
LONGEST_PATIENCE_S = 0.05
PAUSE_S = 0.05
BAD_REQUESTS = (
    post("/v1/embeddings", b'{"input": '),
    post("/v1/embeddings", b'{"input": []}'),
    post("/v1/embeddings", b'{"input": [1.5]}'),
    post("/v1/embeddings", orjson.dumps({"input": ["w"] * 1000})),
    post("/rerank", b'{"query": "w"}'),
    post("/nowhere", b"{}"),
)

Vector = NDArray[np.float32]
Client = Callable[[float], Coroutine[None, None, None]]


@dataclass(slots=True)
class Seen:
    """What the clients saw.

    queries: of each answered single text when it was sent, on the monotonic clock, and seconds.
    wrong: texts that got another vector than in the beginning. failures: what nobody expected.
    """

    queries: list[tuple[float, float]] = field(default_factory=list)
    num_texts: int = 0
    num_left: int = 0
    num_refused: int = 0
    wrong: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Clients:
    """All clients of one run, on one event loop; references: the vector of every text."""

    def __init__(self, url: str, references: Mapping[str, Vector]) -> None:
        self.seen = Seen()
        self._url = url
        self._references = references
        self._texts = list(references)
        self._source = random.Random(0)  # noqa: S311 - a fixed sequence is the point

    async def run(self, seconds: float) -> None:
        """Put load on the server for so long."""
        until = time.monotonic() + seconds
        kinds = [self._query] * NUM_QUERY_CLIENTS + [self._documents] * NUM_DOCUMENT_CLIENTS
        kinds += [self._reconnect, self._leave, self._blunder]
        await asyncio.gather(*(self._persist(kind, until) for kind in kinds))

    async def _persist(self, kind: Client, until: float) -> None:
        """Be a client of this kind; who is cut off comes back, and that is no success."""
        while time.monotonic() < until:
            try:
                await kind(until)
            except (OSError, EOFError) as error:
                self.seen.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(PAUSE_S)

    async def _query(self, until: float) -> None:
        connection = await RawConnection.open(self._url)
        while (sent_at := time.monotonic()) < until:
            texts = self._some(1)
            self._check(texts, await connection.ask(embeddings(texts)))
            self.seen.queries.append((sent_at, time.monotonic() - sent_at))
        connection.close()

    async def _documents(self, until: float) -> None:
        connection = await RawConnection.open(self._url)
        while time.monotonic() < until:
            texts = self._some(self._source.randint(2, NUM_DOCUMENTS))
            self._check(texts, await connection.ask(embeddings(texts)))
        connection.close()

    async def _reconnect(self, until: float) -> None:
        while time.monotonic() < until:
            connection = await RawConnection.open(self._url)
            texts = self._some(1)
            self._check(texts, await connection.ask(embeddings(texts)))
            connection.close()
            await asyncio.sleep(PAUSE_S)

    async def _leave(self, until: float) -> None:
        while time.monotonic() < until:
            connection = await RawConnection.open(self._url)
            texts = self._some(self._source.randint(1, NUM_DOCUMENTS))
            try:
                async with asyncio.timeout(self._source.random() ** 4 * LONGEST_PATIENCE_S):
                    self._check(texts, await connection.ask(embeddings(texts)))
            except TimeoutError:
                self.seen.num_left += 1
            connection.close()
            await asyncio.sleep(PAUSE_S)

    async def _blunder(self, until: float) -> None:
        connection = await RawConnection.open(self._url)
        while time.monotonic() < until:
            answer = await connection.ask(self._source.choice(BAD_REQUESTS))
            if answer.status in CLIENT_ERRORS:
                self.seen.num_refused += 1
            else:
                self.seen.failures.append(f"a bad request got {answer.status}")
            await asyncio.sleep(PAUSE_S)
        connection.close()

    def _some(self, number: int) -> list[str]:
        return self._source.choices(self._texts, k=number)

    def _check(self, texts: Sequence[str], answer: RawAnswer) -> None:
        if answer.status != OK:
            self.seen.failures.append(f"{answer.status}: {answer.body[:200]!r}")
            return
        rows = vectors(answer)
        self.seen.num_texts += len(texts)
        cosines = [row @ self._references[text] for text, row in zip(texts, rows, strict=True)]
        # Also what is no number is wrong.
        self.seen.wrong += [
            text for text, each in zip(texts, cosines, strict=True) if not each >= MIN_COSINE
        ]


def vectors(answer: RawAnswer) -> list[Vector]:
    """Return the rows of an answer, which are of unit length."""
    items = orjson.loads(answer.body)["data"]
    return [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items]


async def find_references(url: str, texts: Sequence[str]) -> dict[str, Vector]:
    """Ask for every text alone, while nobody else asks."""
    connection = await RawConnection.open(url)
    found = {text: vectors(await connection.ask(embeddings([text])))[0] for text in texts}
    connection.close()
    return found
