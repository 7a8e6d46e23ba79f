"""What is asked of a server besides the load: a first request, how long texts are, its answers."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from beicli.bench.calibration import words_for_length
from beicli.bench.sender import Sender
from beicli.bench.settings import BenchSettings
from beicli.bench.texts import Texts, mixed_texts, texts_of_length
from beicli.bench.workload import variants
from beicli.datasets import Dataset
from beicli.errors import BenchError

# No other text and no second try would heal these, so the first request ends the run.
_HOPELESS_KINDS = frozenset(
    {"name_not_found", "connection_refused", "connection_failed", "timeout"}
    | {"invalid_response", "status_401", "status_403", "status_404", "status_405", "status_424"}
)
_NUM_MADE_TEXTS = 256
_NUM_CALIBRATION_TEXTS = 16


async def probe(sender: Sender, dataset: Dataset, *, batch_size: int) -> None:
    """Send one request; raises `BenchError` where its answer shows that none can succeed.

    So a wrong address or key is told at once and not after the run.
    """
    body = sender.body(first_texts(dataset, batch_size))
    failure = (await sender.send(body, is_warming_up=True)).failure
    if failure is not None and failure.kind in _HOPELESS_KINDS:
        raise BenchError(
            f"the first request to `{sender.url}` failed: {failure.kind}: {failure.message}",
            hint=failure.hint,
        )


async def make_texts(settings: BenchSettings, dataset: Dataset, sender: Sender) -> Texts:
    """Return the texts to send: the dataset's own, or those of the length or mix asked for."""
    if settings.mix is not None:
        return mixed_texts(dataset, settings.mix)
    if settings.length is None:
        return Texts.of(dataset)
    seed = settings.seed

    async def count_tokens(num_words: int) -> float | None:
        sample = texts_of_length(dataset, num_words, num_texts=_NUM_CALIBRATION_TEXTS, seed=seed)
        return await _mean_tokens(sender, sample.texts)

    num_words = await words_for_length(settings.length, count_tokens)
    made = texts_of_length(dataset, num_words, num_texts=_NUM_MADE_TEXTS, seed=seed)
    # Queries stay short, as a reranker's are, and as they were when it counted.
    return replace(Texts.of(dataset), dataset=made)


async def fetch_answers(
    senders: Sequence[Sender], texts: Sequence[str], *, batch_size: int
) -> list[tuple[bytes, bytes, int]]:
    """Send the same texts to two servers; return both answers to each batch, and its size."""
    first, second = senders
    pairs = []
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        answers = [
            (await sender.fetch_checked(sender.body(batch), num_texts=len(batch)))[0]
            for sender in (first, second)
        ]
        pairs.append((answers[0], answers[1], len(batch)))
    return pairs


def first_texts(dataset: Dataset, num_texts: int) -> tuple[str, ...]:
    """Return so many different texts, made-up variants where the dataset has too few."""
    texts = itertools.chain(dataset.texts, variants(dataset.texts))
    return tuple(itertools.islice(texts, num_texts))


async def _mean_tokens(sender: Sender, texts: Sequence[str]) -> float | None:
    """Return the mean of what the server counts in each text; None when it does not count."""
    counts = []
    for text in texts:
        _, num_tokens = await sender.fetch_checked(sender.body((text,)), num_texts=1)
        if num_tokens is None:
            return None
        counts.append(num_tokens)
    return sum(counts) / len(counts)
