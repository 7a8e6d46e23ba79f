"""Texts made for a measurement: all of one length, or short and long ones in a given share.

Pure. A made text consists of words of the dataset, so it is ordinary language to a tokenizer.
"""

import itertools
import random
from dataclasses import dataclass
from typing import Literal

from beicli.bench.workload import variants
from beicli.datasets import Dataset

LengthClass = Literal["short", "long"]


@dataclass(frozen=True, slots=True)
class Texts:
    """What a run sends.

    queries: what a reranker ranks the texts of the dataset for.
    longest_short: how many words the longest short text of a mix has; None without a mix.
    """

    dataset: Dataset
    queries: tuple[str, ...]
    longest_short: int | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> "Texts":
        """Send a dataset as it is."""
        return cls(dataset, short_texts(dataset))

    def length_class(self, text: str) -> LengthClass | None:
        """Say to which part of a mix a text belongs; None without a mix."""
        if self.longest_short is None:
            return None
        return "short" if _num_words(text) <= self.longest_short else "long"


def short_texts(dataset: Dataset) -> tuple[str, ...]:
    """Return the shorter third by characters: what somebody might have typed as a query."""
    by_length = sorted(dataset.texts, key=len)
    return tuple(by_length[: max(len(by_length) // 3, 1)])


def texts_of_length(dataset: Dataset, num_words: int, *, num_texts: int, seed: int) -> Dataset:
    """Cut `num_texts` different texts of `num_words` words out of the dataset's running words."""
    words = [word for text in dataset.texts for word in text.split()]
    # Not for secrets: the texts have to be the same on every machine.
    source = random.Random(seed)  # noqa: S311 - see above
    made: dict[str, None] = {}
    for number in itertools.count():
        if len(made) == num_texts:
            break
        start = source.randrange(len(words))
        chosen = itertools.islice(itertools.cycle(words), start, start + num_words)
        text = " ".join(chosen)
        # A dataset may have too few places to start at; then numbers make the difference.
        if text in made:
            text = " ".join((*text.split()[:-1], str(number)))
        made[text] = None
    return Dataset(name=dataset.name, texts=tuple(made))


def mixed_texts(dataset: Dataset, short_share: float) -> Texts:
    """Return as many texts, of which `short_share` are short: of its shorter third by words.

    The others are of its longer third. Where one of the two has too few, variants make up the rest.
    """
    by_length = sorted(dataset.texts, key=_num_words)
    third = max(len(by_length) // 3, 1)
    num_short = round(short_share * len(by_length))
    short, long = by_length[:third], by_length[-third:]
    texts = (
        *itertools.islice(itertools.chain(short, variants(short)), num_short),
        *itertools.islice(itertools.chain(long, variants(long)), len(by_length) - num_short),
    )
    # A dataset of one text is both short and long.
    mixed = Dataset(name=dataset.name, texts=tuple(dict.fromkeys(texts)))
    # Variants may have a number as one word more; those of the long texts are far beyond.
    longest_short = max(map(_num_words, texts[:num_short]), default=_num_words(short[-1]))
    return Texts(mixed, short_texts(dataset), longest_short)


def _num_words(text: str) -> int:
    return len(text.split())
