"""Named entities from text to answer, on an engine that knows each token by itself."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tests.pipeline.ner_pipeline import LogitsEngine, predict
from tests.server.fakes import (
    LABELS,
    FakeEngine,
    make_pipeline,
    token_rows,
)

from beicli.engine.batch import Float32
from beicli.errors import EmptyInputError, WrongTaskError
from beicli.model.spec import Task
from beicli.pipeline.entities import AggregationStrategy
from beicli.pipeline.results import Entity
from beicli.pipeline.tokenizer import Tokenizer, Truncation, TruncationDirection

NER_LABELS = LABELS[Task.TOKEN_CLASSIFICATION]
MAX_INPUT_LENGTH = 16
WHOLE = Truncation(allowed=False)
LEFT = Truncation(direction=TruncationDirection.LEFT)
LONG_TEXT = " ".join(f"w{number}" for number in range(100))

# Words, and words without a space between them.
texts = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([" ", " ", "-", "\U0001f600", "  "])), min_size=1
).map(lambda parts: "".join(f"w{number}{gap}" for number, gap in parts))


def logits_by_token(ids: Sequence[int]) -> Float32:
    return token_rows(list(ids), Task.TOKEN_CLASSIFICATION)


def tokens(entities: list[Entity]) -> list[str]:
    return [entity.token for entity in entities]


def make_tokenizer(*, max_input_length: int = MAX_INPUT_LENGTH) -> Tokenizer:
    """Words `w0` to `w99`, each a token, between special tokens."""
    words = {"[UNK]": 1, "[CLS]": 2, "[SEP]": 3} | {
        f"w{number}": 4 + number for number in range(100)
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return Tokenizer(tokenizer, max_input_length=max_input_length)


@given(text=texts, strategy=st.sampled_from(AggregationStrategy), raw_scores=st.booleans())
def test_windows_change_nothing_where_tokens_do_not_see_their_neighbours(
    text: str, strategy: AggregationStrategy, *, raw_scores: bool
) -> None:
    narrow, roomy = MAX_INPUT_LENGTH, 4096
    opened = [make_tokenizer(max_input_length=length) for length in (narrow, roomy)]
    engines = [LogitsEngine(logits_by_token) for _ in opened]
    results = [
        predict(
            engine,
            tokenizer,
            NER_LABELS,
            [text],
            strategies=[strategy],
            raw_scores=raw_scores,
            truncation=WHOLE,
        )[0]
        for engine, tokenizer in zip(engines, opened, strict=True)
    ]

    assert results[0].entities == results[1].entities
    assert max(engines[0].lengths) <= MAX_INPUT_LENGTH
    assert len(engines[1].lengths) == 1


@given(st.lists(texts, min_size=1, max_size=3), st.sampled_from(AggregationStrategy))
def test_an_entity_is_a_part_of_its_text_and_follows_the_one_before(
    inputs: list[str], strategy: AggregationStrategy
) -> None:
    (result,) = predict(
        LogitsEngine(logits_by_token), make_tokenizer(), NER_LABELS, inputs, strategies=[strategy]
    )

    for text, entities in zip(inputs, result.entities, strict=True):
        own = entities[1:-1] if strategy is AggregationStrategy.NONE else entities
        assert all(entity.token == text[entity.start : entity.end] != "" for entity in own)
        ends = [0, *(entity.end for entity in own)]
        assert all(end <= entity.start for end, entity in zip(ends, own, strict=False))


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [
        (Truncation(), [f"w{number}" for number in range(14)]),
        (LEFT, [f"w{number}" for number in range(86, 100)]),
    ],
)
def test_truncation_cuts_the_end_asked_for_and_is_counted(
    truncation: Truncation, expected: list[str]
) -> None:
    (result,) = predict(
        LogitsEngine(logits_by_token),
        make_tokenizer(),
        NER_LABELS,
        [LONG_TEXT, "w1"],
        truncation=truncation,
    )

    assert tokens(result.entities[0]) == ["[CLS]", *expected, "[SEP]"]
    assert tokens(result.entities[1]) == ["[CLS]", "w1", "[SEP]"]
    assert result.usage.num_truncated_inputs == 1
    assert result.usage.input_lengths == (102, 3)
    assert result.usage.num_tokens == MAX_INPUT_LENGTH + 3


def test_without_truncation_a_long_text_is_answered_whole_and_its_windows_are_counted() -> None:
    engine = LogitsEngine(logits_by_token)

    (result,) = predict(engine, make_tokenizer(), NER_LABELS, [LONG_TEXT, "w1"], truncation=WHOLE)

    assert tokens(result.entities[0]) == ["[CLS]", *LONG_TEXT.split(), "[SEP]"]
    assert tokens(result.entities[1]) == ["[CLS]", "w1", "[SEP]"]
    assert result.usage.num_truncated_inputs == 0
    assert result.usage.input_lengths == (102, 3)
    assert result.usage.num_tokens == sum(engine.lengths) > 105


def test_tokens_see_what_stands_around_them_in_a_neighbouring_window() -> None:
    def logits_by_place(ids: Sequence[int]) -> Float32:
        """`B-PER`, the surer the farther a token is from where its sequence ends."""
        places = np.arange(len(ids))
        logits = np.zeros((len(ids), len(NER_LABELS)), dtype=np.float32)
        logits[:, NER_LABELS.index("B-PER")] = np.minimum(places, places[::-1])
        return logits

    (result,) = predict(
        LogitsEngine(logits_by_place),
        make_tokenizer(),
        NER_LABELS,
        [LONG_TEXT],
        raw_scores=True,
        truncation=WHOLE,
    )

    certainties = [entity.scores["B-PER"] for entity in result.entities[0]]
    assert certainties[:3] == [0, 1, 2]
    assert certainties[-3:] == [2, 1, 0]
    # Windows of 14 tokens share 3: one of them is second from a cut, the others nearer.
    assert min(certainties[2:-2]) == 2


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(EmptyInputError, match="Input validation error: `inputs` cannot be empty"):
        predict(LogitsEngine(logits_by_token), make_tokenizer(), NER_LABELS, ["w1", ""])


def test_a_model_that_labels_no_tokens_is_told_apart() -> None:
    async def run() -> None:
        with make_pipeline(FakeEngine(task=Task.CLASSIFICATION)) as pipeline:
            await pipeline.predict_tokens(["w1"])

    with pytest.raises(WrongTaskError) as caught:
        asyncio.run(run())

    assert caught.value.message == "Backend error: Model is not a token classifier model"
