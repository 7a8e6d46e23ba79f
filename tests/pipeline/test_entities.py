"""Entities from logits, on texts small enough to work out by hand."""

import json

import numpy as np
import pytest

from beicli.engine.batch import Float32
from beicli.pipeline.entities import AggregationStrategy, EntityFinder
from beicli.pipeline.results import Entity, TokenizedText
from beicli.pipeline.words import WordRule

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
# A word starts where a space stands, no token is unknown.
BY_SPACES = WordRule(token_lengths=None, unk_token_id=None)
AGGREGATING = [s for s in AggregationStrategy if s is not AggregationStrategy.NONE]
BY_WORD = [s for s in AGGREGATING if s is not AggregationStrategy.SIMPLE]

# A label and its logit; those of the other labels are 0.
Best = tuple[str, float]


def text_of(text: str, *pieces: str) -> TokenizedText:
    """Tokenise `text` into `pieces`, with special tokens around them."""
    offsets, place = [(0, 0)], 0
    for piece in pieces:
        place = text.index(piece, place)
        offsets.append((place, place + len(piece)))
        place += len(piece)
    offsets.append((0, 0))
    num_tokens = len(offsets)
    return TokenizedText(
        text=text,
        ids=np.arange(10, 10 + num_tokens, dtype=np.int32),
        tokens=["[CLS]", *(piece.lower() for piece in pieces), "[SEP]"],
        offsets=np.array(offsets, dtype=np.int64),
        is_special=np.isin(np.arange(num_tokens), [0, num_tokens - 1]),
    )


def logits_of(*best: Best, labels: tuple[str, ...] = LABELS) -> Float32:
    """Logits of tokens with certain best labels, between special tokens that are `O`."""
    rows = np.zeros((len(best) + 2, len(labels)), dtype=np.float32)
    rows[[0, -1], 0] = 9
    for row, (label, logit) in zip(rows[1:-1], best, strict=True):
        row[labels.index(label)] = logit
    return rows


def probability(logit: float, *, num_labels: int = len(LABELS)) -> float:
    return float(np.exp(logit) / (np.exp(logit) + num_labels - 1))


def find(
    text: TokenizedText,
    logits: Float32,
    strategy: AggregationStrategy,
    *,
    raw_scores: bool = False,
    labels: tuple[str, ...] = LABELS,
) -> list[Entity]:
    finder = EntityFinder(labels, BY_SPACES)
    (entities,) = finder.find([text], [logits], strategy=strategy, raw_scores=raw_scores)
    return entities


def spans(entities: list[Entity]) -> list[tuple[str, str]]:
    return [(entity.token, label) for entity in entities for label in entity.scores]


def test_without_aggregation_every_token_is_an_entry_with_its_whole_label() -> None:
    text = text_of("Ann saw \U0001f600Rome", "Ann", "saw", "\U0001f600", "Rome")
    logits = logits_of(("B-PER", 5), ("O", 4), ("O", 3), ("I-LOC", 2))

    entities = find(text, logits, AggregationStrategy.NONE)

    assert [(e.token, e.token_id, e.start, e.end) for e in entities] == [
        ("[CLS]", 10, 0, 0),
        ("Ann", 11, 0, 3),
        ("saw", 12, 4, 7),
        ("\U0001f600", 13, 8, 9),
        ("Rome", 14, 9, 13),
        ("[SEP]", 15, 0, 0),
    ]
    assert [e.scores for e in entities] == [
        {label: pytest.approx(probability(logit), abs=1e-6)}
        for label, logit in [("O", 9), ("B-PER", 5), ("O", 4), ("O", 3), ("I-LOC", 2), ("O", 9)]
    ]


def test_raw_scores_without_aggregation_are_the_logits_of_all_labels() -> None:
    text = text_of("Ann", "Ann")
    logits = logits_of(("B-PER", 5))

    _, entity, _ = find(text, logits, AggregationStrategy.NONE, raw_scores=True)

    assert entity.scores == {"O": 0, "B-PER": 5, "I-PER": 0, "B-LOC": 0, "I-LOC": 0}


@pytest.mark.parametrize("strategy", AggregationStrategy)
@pytest.mark.parametrize("raw_scores", [False, True])
def test_scores_are_numbers_json_knows(strategy: AggregationStrategy, *, raw_scores: bool) -> None:
    text = text_of("Ann", "Ann")

    entities = find(text, logits_of(("B-PER", 5)), strategy, raw_scores=raw_scores)

    assert entities
    for entity in entities:
        json.dumps([entity.token_id, entity.start, entity.end, entity.scores])


@pytest.mark.parametrize("strategy", AGGREGATING)
def test_an_entity_goes_on_while_its_tag_does_and_none_opens(strategy: AggregationStrategy) -> None:
    text = text_of("Ann Lee Bob Rome Oslo is", "Ann", "Lee", "Bob", "Rome", "Oslo", "is")
    logits = logits_of(
        ("B-PER", 5), ("I-PER", 5), ("B-PER", 5), ("I-LOC", 5), ("I-LOC", 5), ("O", 5)
    )

    entities = find(text, logits, strategy)

    assert spans(entities) == [("Ann Lee", "PER"), ("Bob", "PER"), ("Rome Oslo", "LOC")]
    assert [(e.token_id, e.start, e.end) for e in entities] == [(0, 0, 7), (0, 8, 11), (0, 12, 21)]


@pytest.mark.parametrize("strategy", AGGREGATING)
def test_what_is_outside_entities_separates_them(strategy: AggregationStrategy) -> None:
    text = text_of("Ann and Lee", "Ann", "and", "Lee")

    entities = find(text, logits_of(("I-PER", 5), ("O", 5), ("I-PER", 5)), strategy)

    assert spans(entities) == [("Ann", "PER"), ("Lee", "PER")]


@pytest.mark.parametrize("strategy", AGGREGATING)
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # Without a prefix a label continues.
        (("PER", "PER"), [("Ann Lee", "PER")]),
        (("B-PER", "PER"), [("Ann Lee", "PER")]),
        # Other schemes keep their letter while comparing, and lose it in the name.
        (("S-PER", "S-PER"), [("Ann Lee", "PER")]),
        (("B-PER", "E-PER"), [("Ann", "PER"), ("Lee", "PER")]),
        (("B-X-Y", "I-X-Y"), [("Ann Lee", "X-Y")]),
        (("A-B-C", "A-B-C"), [("Ann Lee", "B-C")]),
        (("B-O", "I-O"), []),
    ],
)
def test_labels_of_other_schemes_are_read_as_transformers_reads_them(
    labels: tuple[str, str], expected: list[tuple[str, str]], strategy: AggregationStrategy
) -> None:
    known = tuple(dict.fromkeys(("O", *labels)))
    logits = logits_of(*((label, 5) for label in labels), labels=known)

    entities = find(text_of("Ann Lee", "Ann", "Lee"), logits, strategy, labels=known)

    assert spans(entities) == expected


def test_simple_decides_token_by_token() -> None:
    text = text_of("Annabel left", "Anna", "bel", "left")

    entities = find(
        text, logits_of(("B-PER", 3), ("I-LOC", 5), ("O", 5)), AggregationStrategy.SIMPLE
    )

    assert spans(entities) == [("Anna", "PER"), ("bel", "LOC")]


@pytest.mark.parametrize(
    ("strategy", "label", "logit"),
    [
        (AggregationStrategy.FIRST, "PER", 3),
        (AggregationStrategy.MAX, "LOC", 5),
        (AggregationStrategy.AVERAGE, "LOC", 5 / 3),
    ],
)
def test_the_other_strategies_give_a_word_one_label(
    strategy: AggregationStrategy, label: str, logit: float
) -> None:
    text = text_of("Annabel left", "Ann", "ab", "el", "left")
    logits = logits_of(("B-PER", 3), ("I-LOC", 5), ("O", 1), ("O", 5))

    (entity,) = find(text, logits, strategy)
    (raw,) = find(text, logits, strategy, raw_scores=True)

    assert (entity.token, entity.start, entity.end) == ("Annabel", 0, 7)
    assert raw.scores == {label: pytest.approx(logit)}
    if strategy is AggregationStrategy.AVERAGE:
        others = [1 / (np.exp(logit) + 4) for logit in (3, 1)]
        assert entity.scores == {label: pytest.approx((probability(5) + sum(others)) / 3, abs=1e-6)}
    else:
        assert entity.scores == {label: pytest.approx(probability(logit), abs=1e-6)}


def test_of_equally_certain_tokens_the_first_speaks_for_the_word() -> None:
    text = text_of("Annabel", "Ann", "ab", "el")
    logits = logits_of(("O", 2), ("I-LOC", 5), ("B-PER", 5))

    assert spans(find(text, logits, AggregationStrategy.MAX)) == [("Annabel", "LOC")]


def test_averages_add_tokens_in_their_order() -> None:
    # `O` and `PER` are equally likely; added from the end, `PER` would win by a last bit.
    labels = (*LABELS, "B-ORG", "I-ORG")
    text = text_of("Annabel", "Ann", "ab", "el")
    logits = logits_of(("O", 1), ("B-PER", 1), ("O", 0), labels=labels)

    assert find(text, logits, AggregationStrategy.AVERAGE, labels=labels) == []


@pytest.mark.parametrize("strategy", BY_WORD)
def test_a_token_that_continues_no_word_starts_one(strategy: AggregationStrategy) -> None:
    # What truncation on the left leaves may begin inside a word.
    text = text_of("Annabel", "bel")

    assert spans(find(text, logits_of(("B-PER", 5)), strategy)) == [("bel", "PER")]


@pytest.mark.parametrize("strategy", BY_WORD)
def test_an_entity_s_score_is_the_mean_of_its_words_not_of_its_tokens(
    strategy: AggregationStrategy,
) -> None:
    text = text_of("Annabel Lee", "Anna", "bel", "Lee")
    logits = logits_of(("B-PER", 4), ("B-PER", 4), ("I-PER", 1))

    (entity,) = find(text, logits, strategy)
    (raw,) = find(text, logits, strategy, raw_scores=True)

    assert entity.scores["PER"] == pytest.approx((probability(4) + probability(1)) / 2, abs=1e-6)
    assert raw.scores["PER"] == pytest.approx(2.5)


def test_the_score_of_a_simple_entity_is_the_mean_of_each_token_s_own_label() -> None:
    text = text_of("Ann Lee", "Ann", "Lee")
    logits = logits_of(("B-PER", 4), ("I-PER", 1))

    (entity,) = find(text, logits, AggregationStrategy.SIMPLE)
    (raw,) = find(text, logits, AggregationStrategy.SIMPLE, raw_scores=True)

    assert entity.scores["PER"] == pytest.approx((probability(4) + probability(1)) / 2, abs=1e-6)
    assert raw.scores["PER"] == pytest.approx(2.5)


@pytest.mark.parametrize("strategy", AGGREGATING)
def test_a_text_without_tokens_has_no_entities(strategy: AggregationStrategy) -> None:
    assert find(text_of("\u200b"), logits_of(), strategy) == []


def test_texts_of_a_request_keep_their_entities() -> None:
    texts = [text_of("Ann", "Ann"), text_of("x"), text_of("in Rome", "in", "Rome")]
    logits = [logits_of(("B-PER", 5)), logits_of(), logits_of(("O", 5), ("B-LOC", 5))]

    entities = EntityFinder(LABELS, BY_SPACES).find(
        texts, logits, strategy=AggregationStrategy.MAX, raw_scores=False
    )

    assert [spans(found) for found in entities] == [[("Ann", "PER")], [], [("Rome", "LOC")]]
