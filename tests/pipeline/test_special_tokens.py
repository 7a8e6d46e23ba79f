"""Pairs put together from texts, against the tokenizers library's own pairs."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from beicli.errors import ArtifactError
from beicli.pipeline.special_tokens import SpecialTokens, fit_pair
from beicli.pipeline.tokenizer import Tokenizer, Truncation, TruncationDirection

CHECKPOINTS = (
    "all-minilm-l6-v2",
    "xlmr-e5-small",
    "random/qwen3",
    "roberta-minilm",
    "tiny-reranker",
)
WORDS = ("[PAD]", "<s>", "</s>", "[UNK]", "a", "b", "c", "d")

# Letters of several widths, scripts, characters of several tokens, and what looks special.
texts = st.lists(
    st.sampled_from(
        [
            "the ",
            "unbelievably ",
            "Straße ",
            "日本語",
            "🤖",
            "ﬁ",
            "e\u0301 ",
            "\n\n",
            "  ",
            "x" * 20,
        ]
    )
    | st.text(max_size=8).filter(lambda text: text.isprintable()),
    max_size=25,
).map("".join)
directions = st.sampled_from(list(TruncationDirection))


def words(post_processor: object | None) -> tokenizers.Tokenizer:
    """A tokenizer of a few words."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return tokenizer


ENDS = [("<s>", 1), ("</s>", 2)]
POST_PROCESSORS: Mapping[str, Callable[[], object | None]] = {
    "none": lambda: None,
    "bert": lambda: processors.BertProcessing(("</s>", 2), ("<s>", 1)),
    "roberta": lambda: processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
    "single only": lambda: processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ENDS),
    "end only": lambda: processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=ENDS
    ),
    "nothing after": lambda: processors.TemplateProcessing(
        single="<s> $A", pair="<s>:1 $A:1 </s>:1 $B:0", special_tokens=ENDS
    ),
    "in sequence": lambda: processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=ENDS
            ),
        ]
    ),
}


@cache
def library(path: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


@cache
def ours(path: Path, max_input_length: int) -> Tokenizer:
    return Tokenizer.open(path, max_input_length=max_input_length, takes_token_type_ids=True)


@pytest.mark.models
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("max_input_length", [5, 8, 13, 512])
@given(first=texts, second=texts, direction=directions)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pairs_are_those_of_the_tokenizers_library(
    models_directory: Path,
    checkpoint: str,
    max_input_length: int,
    first: str,
    second: str,
    direction: TruncationDirection,
) -> None:
    if not first and not second:
        return
    path = models_directory / checkpoint
    reference = library(path)
    reference.no_truncation()
    full = reference.encode(first, second)
    reference.enable_truncation(max_length=max_input_length, direction=direction.value)
    wanted = reference.encode(first, second)

    [encoding] = ours(path, max_input_length).encode_pairs(
        [(first, second)], truncation=Truncation(direction=direction)
    )

    assert encoding.sequence.input_ids.tolist() == wanted.ids
    assert encoding.sequence.token_type_ids is not None
    assert encoding.sequence.token_type_ids.tolist() == wanted.type_ids
    assert encoding.original_length == len(full.ids)


@pytest.mark.models
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("max_input_length", [5, 8, 512])
@given(text=texts.filter(bool), direction=directions)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_texts_are_those_of_the_tokenizers_library(
    models_directory: Path,
    checkpoint: str,
    max_input_length: int,
    text: str,
    direction: TruncationDirection,
) -> None:
    path = models_directory / checkpoint
    reference = library(path)
    reference.no_truncation()
    full = reference.encode(text)
    reference.enable_truncation(max_length=max_input_length, direction=direction.value)

    [encoding] = ours(path, max_input_length).encode(
        [text], truncation=Truncation(direction=direction)
    )

    assert encoding.input_ids.tolist() == reference.encode(text).ids
    assert encoding.original_length == len(full.ids)


@pytest.mark.parametrize("name", POST_PROCESSORS)
@given(
    first=st.lists(st.sampled_from("abcd"), max_size=9),
    second=st.lists(st.sampled_from("abcd"), max_size=9),
    max_input_length=st.integers(5, 12),
    direction=directions,
)
def test_every_post_processor_is_followed(
    name: str,
    first: list[str],
    second: list[str],
    max_input_length: int,
    direction: TruncationDirection,
) -> None:
    pair = (" ".join(first), " ".join(second))
    if not any(pair):
        return
    reference = words(POST_PROCESSORS[name]())
    reference.enable_truncation(max_length=max_input_length, direction=direction.value)
    wanted = reference.encode(*pair)

    tokenizer = Tokenizer(
        words(POST_PROCESSORS[name]()),
        max_input_length=max_input_length,
        takes_token_type_ids=True,
    )
    [encoding] = tokenizer.encode_pairs([pair], truncation=Truncation(direction=direction))

    assert encoding.sequence.input_ids.tolist() == wanted.ids
    assert encoding.sequence.token_type_ids is not None
    assert encoding.sequence.token_type_ids.tolist() == wanted.type_ids


def test_a_pair_fits_as_the_tokenizers_library_makes_it_fit() -> None:
    tokenizer = words(None)
    for budget in range(1, 10):
        tokenizer.enable_truncation(max_length=budget)
        for first in range(12):
            for second in range(12):
                encoded = tokenizer.encode("a " * first, "b " * second)
                wanted = (encoded.tokens.count("a"), encoded.tokens.count("b"))

                assert fit_pair((first, second), budget) == wanted


def test_type_ids_are_left_out_for_models_that_take_none() -> None:
    special = SpecialTokens.learn(words(POST_PROCESSORS["bert"]()))
    tokenizer = Tokenizer(words(POST_PROCESSORS["bert"]()), max_input_length=9)

    [encoding] = tokenizer.encode_pairs([("a", "b c")])

    assert encoding.sequence.input_ids.tolist() == [1, 4, 2, 5, 6, 2]
    assert encoding.sequence.token_type_ids is None
    assert (special.num_around_text, special.num_around_pair) == (2, 3)


def test_a_tokenizer_that_makes_nothing_of_text_is_refused() -> None:
    deaf = tokenizers.Tokenizer(models.WordLevel({"z": 0}, unk_token="?"))
    deaf.pre_tokenizer = pre_tokenizers.Split("a", "removed")

    with pytest.raises(ArtifactError, match="makes no tokens"):
        Tokenizer(deaf, max_input_length=8)


def test_a_window_without_room_beside_the_special_tokens_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"takes 4 tokens an input.* 4 special tokens"):
        Tokenizer(words(POST_PROCESSORS["roberta"]()), max_input_length=4)
