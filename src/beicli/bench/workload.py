"""Which client sends which texts, in which order.

Pure: the same texts, seed and numbers give the same requests. Every client owns a share of the
texts that no other client has, so two clients never send the same text at the same time; a server
that recognises equal inputs gains nothing from it.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from beicli.datasets import Dataset


@dataclass(frozen=True, slots=True)
class Workload:
    """The texts of a run, cut into one share a client; no share is smaller than a batch.

    queries: what texts are ranked for.
    """

    dataset_name: str
    shares: tuple[tuple[str, ...], ...]
    batch_size: int
    queries: tuple[str, ...] = ()

    @property
    def num_texts(self) -> int:
        """Different texts in the run, made-up variants included."""
        return sum(map(len, self.shares))

    @property
    def mean_characters(self) -> float:
        return sum(len(text) for share in self.shares for text in share) / self.num_texts

    def batches_in_one_pass(self, client: int) -> Iterator[tuple[str, ...]]:
        """The fewest requests that send each text of a client's share; to be repeated endlessly.

        The last one is filled up from the start of the share. No request holds a text twice.
        """
        share = self.shares[client]
        for start in range(0, len(share), self.batch_size):
            batch = share[start : start + self.batch_size]
            yield batch + share[: self.batch_size - len(batch)]

    def query_for(self, number: int) -> str:
        """Return what the request of that number ranks its texts for."""
        return self.queries[number % len(self.queries)]


def plan_workload(
    dataset: Dataset,
    *,
    concurrency: int,
    batch_size: int,
    seed: int,
    queries: tuple[str, ...] = (),
) -> Workload:
    """Shuffle the texts and deal them out, like cards, to `concurrency` clients.

    When there are fewer texts than `concurrency` x `batch_size`, variants make up the rest.
    """
    texts = list(dataset.texts)
    num_missing = concurrency * batch_size - len(texts)
    texts.extend(itertools.islice(variants(dataset.texts), max(num_missing, 0)))
    # Not for secrets: the order has to be the same on every machine.
    random.Random(seed).shuffle(texts)  # noqa: S311 - see above
    shares = tuple(tuple(texts[client::concurrency]) for client in range(concurrency))
    return Workload(
        dataset_name=dataset.name, shares=shares, batch_size=batch_size, queries=queries
    )


def variants(texts: Sequence[str]) -> Iterator[str]:
    """Endlessly many texts that differ from `texts` and from each other.

    A variant begins at a later word and ends with the words skipped: as long as its original, with
    another beginning, so a server that shares work between equal prefixes gains nothing. When a
    text has no such variant left, a number is appended.
    """
    seen = set(texts)
    for round_number in itertools.count(1):
        for text in texts:
            words = text.split()
            is_rotated = round_number < len(words)
            rotated = " ".join(words[round_number:] + words[:round_number])
            variant = rotated if is_rotated and rotated not in seen else f"{text} {round_number}"
            if variant not in seen:
                seen.add(variant)
                yield variant
