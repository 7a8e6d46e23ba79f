"""From the logits of tokens to named entities, as transformers' pipeline finds them.

Source: `TokenClassificationPipeline` of transformers 5.23, whose words, groups and scores these
are. Two things differ for tokens that are not grouped: special tokens and those that belong to no
entity are kept. Numpy only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from beicli.engine.batch import Float32
from beicli.pipeline.results import Entity, TokenizedText
from beicli.pipeline.words import WordRule

# The label of what belongs to no entity.
OUTSIDE = "O"


class AggregationStrategy(StrEnum):
    """How tokens become entities.

    none: every token by itself. simple: neighbours of one label are an entity. The others decide
    word by word first, by its first token, by the mean of its tokens' scores, or by the token
    that is most certain.
    """

    NONE = "none"
    SIMPLE = "simple"
    FIRST = "first"
    AVERAGE = "average"
    MAX = "max"


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """What a model's labels say, by their index.

    tags: a number for each tag, a label without `B-` or `I-`. opens_entity: whether it has `B-`.
    names: what an entity is called that starts with this label.
    """

    tags: NDArray[np.int64]
    opens_entity: NDArray[np.bool_]
    names: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Words:
    """Words, or tokens that stand for themselves: arrays of [num_words].

    labels: the index of each one's label; scores: that label's probability; logits: what it was
    made from.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: Float32
    logits: Float32


@dataclass(frozen=True, slots=True, eq=False)
class EntityFinder:
    """Finds entities in the logits of one model.

    labels: what the logits of a token stand for, in their order.
    """

    labels: tuple[str, ...]
    word_rule: WordRule

    def find(
        self,
        texts: Sequence[TokenizedText],
        logits: Sequence[Float32],
        *,
        strategy: AggregationStrategy,
        raw_scores: bool,
    ) -> list[list[Entity]]:
        """Return the entities of each text, in their order.

        logits: of each text, [num_tokens, num_labels], special tokens included.
        Without aggregation there is one entry a token, special tokens included, whose score is
        that of its best label; raw_scores gives the logits of all labels instead.
        With aggregation an entity's score is the mean of its words' probabilities. raw_scores gives
        the mean of the logits these probabilities were made from; words, labels and groups are
        the same either way, decided by probabilities.
        """
        scores = _softmax(np.concatenate(logits))
        scores_of_texts = np.split(scores, np.cumsum([len(rows) for rows in logits])[:-1])
        entities = []
        for text, text_logits, text_scores in zip(texts, logits, scores_of_texts, strict=True):
            assert len(text.ids) == len(text_logits), "a text has one row of logits a token"
            if strategy is not AggregationStrategy.NONE:
                is_continuation = self.word_rule.continues_word(text)
                words = _words(text, is_continuation, (text_logits, text_scores), strategy)
                entities.append(list(_group(text.text, words, self.labels, raw_scores=raw_scores)))
            elif raw_scores:
                entities.append(_token_entities(text, _all_logits(text_logits, self.labels)))
            else:
                entities.append(_token_entities(text, _best(text_scores, self.labels)))
        return entities


def _softmax(logits: Float32) -> Float32:
    """Turn logits into probabilities; [num_tokens, num_labels].

    In float32 and in this order, as transformers: near 1 the probabilities of a word's tokens
    often differ in the last bit only, and that bit decides whose label the word gets.
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Float32 = powers / powers.sum(axis=-1, keepdims=True)
    return scores


def _all_logits(logits: Float32, labels: tuple[str, ...]) -> list[dict[str, float]]:
    return [dict(zip(labels, row, strict=True)) for row in logits.tolist()]


def _best(scores: Float32, labels: tuple[str, ...]) -> list[dict[str, float]]:
    return [
        {labels[label]: score}
        for label, score in zip(
            scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist(), strict=True
        )
    ]


def _token_entities(text: TokenizedText, values: list[dict[str, float]]) -> list[Entity]:
    whole = text.text
    return [
        Entity(name if is_special else whole[start:end], token_id, start, end, scores)
        for name, is_special, token_id, (start, end), scores in zip(
            text.tokens,
            text.is_special.tolist(),
            text.ids.tolist(),
            text.offsets.tolist(),
            values,
            strict=True,
        )
    ]


def _words(
    text: TokenizedText,
    is_continuation: NDArray[np.bool_],
    values: tuple[Float32, Float32],
    strategy: AggregationStrategy,
) -> _Words:
    """Give each word of a text its label; values: the logits and scores of its tokens."""
    is_own = ~text.is_special
    offsets, logits, scores = text.offsets[is_own], values[0][is_own], values[1][is_own]
    if strategy is AggregationStrategy.SIMPLE:
        return _labelled(offsets[:, 0], offsets[:, 1], logits, scores)
    is_start = ~is_continuation[is_own]
    is_start[:1] = True
    first, last = _runs(is_start)
    match strategy:
        case AggregationStrategy.FIRST:
            logits, scores = logits[first], scores[first]
        case AggregationStrategy.AVERAGE:
            logits, scores = _means(logits, first), _means_in_order(scores, first, last)
        case _:
            chosen = _most_certain(scores.max(axis=1), is_start)
            logits, scores = logits[chosen], scores[chosen]
    return _labelled(offsets[first, 0], offsets[last, 1], logits, scores)


def _runs(is_start: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and last place of each run, [num_runs]; the first run starts at 0."""
    first = np.flatnonzero(is_start)
    return first, np.append(first[1:], len(is_start))[: len(first)] - 1


def _labelled(
    starts: NDArray[np.int64], ends: NDArray[np.int64], logits: Float32, scores: Float32
) -> _Words:
    labels = scores.argmax(axis=1)
    rows = np.arange(len(labels))
    return _Words(starts, ends, labels, scores[rows, labels], logits[rows, labels])


def _most_certain(certainties: Float32, is_start: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the token of each word with the highest value, the first of equals; [num_words]."""
    if not len(certainties):
        return np.empty(0, dtype=np.int64)
    word_of_token = np.cumsum(is_start) - 1
    highest = np.maximum.reduceat(certainties, np.flatnonzero(is_start))
    candidates = np.flatnonzero(certainties == highest[word_of_token])
    _, first = np.unique(word_of_token[candidates], return_index=True)
    chosen: NDArray[np.int64] = candidates[first]
    return chosen


def _means_in_order(rows: Float32, first: NDArray[np.int64], last: NDArray[np.int64]) -> Float32:
    """Average the rows from each first to its last, adding one after the other; [num_runs, ...].

    As transformers does: where two labels are equally likely, the order of adding decides.
    """
    means: Float32 = rows[first]
    for run in np.flatnonzero(last > first).tolist():
        start, end = first[run], last[run] + 1
        means[run] = rows[start:end].sum(axis=0) / np.float32(end - start)
    return means


def _means(rows: Float32, starts: NDArray[np.int64]) -> Float32:
    """Average the rows from each start to the next; [num_starts, ...]."""
    if not len(starts):
        return rows
    counts = np.diff(starts, append=len(rows)).astype(np.float32)
    sums = np.add.reduceat(rows, starts, axis=0)
    means: Float32 = (sums.T / counts).T.astype(np.float32, copy=False)
    return means


def _group(
    text: str, words: _Words, labels: tuple[str, ...], *, raw_scores: bool
) -> Iterator[Entity]:
    """Join neighbours of one tag, up to the next `B-`, and drop what is outside entities."""
    meaning = _meaning(labels)
    tags = meaning.tags[words.labels]
    is_start = meaning.opens_entity[words.labels]
    is_start[1:] |= tags[1:] != tags[:-1]
    is_start[:1] = True
    first, last = _runs(is_start)
    values = _means(words.logits if raw_scores else words.scores, first)
    for label, start, end, value in zip(
        words.labels[first].tolist(),
        words.starts[first].tolist(),
        words.ends[last].tolist(),
        values.tolist(),
        strict=True,
    ):
        name = meaning.names[label]
        if name != OUTSIDE:
            yield Entity(text[start:end], 0, start, end, {name: cast("float", value)})


@lru_cache(maxsize=8)
def _meaning(labels: tuple[str, ...]) -> _Labels:
    tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
    numbers = {tag: number for number, tag in enumerate(dict.fromkeys(tags))}
    return _Labels(
        tags=np.array([numbers[tag] for tag in tags], dtype=np.int64),
        opens_entity=np.array([label.startswith("B-") for label in labels], dtype=np.bool_),
        # An entity loses whatever stands before the first hyphen, be it `B`, `I`, or `S`.
        names=[label.split("-", 1)[-1] for label in labels],
    )
