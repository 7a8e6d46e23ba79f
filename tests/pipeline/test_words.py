"""Which tokens continue a word, for each kind of vocabulary."""

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from beicli.pipeline.tokenizer import Tokenizer
from beicli.pipeline.words import WordRule


def wordpiece() -> tokenizers.Tokenizer:
    pieces = ["[UNK]", "play", "##ing", "##s", "the", "-", "ete"]
    model = models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def unigram(*, unk_id: int | None = 0) -> tokenizers.Tokenizer:
    pieces = [("<unk>", 0.0), ("\u2581", -1.0), ("a", -1.0), ("b", -1.0), (".", -1.0)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unk_id, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def words(tokenizer: tokenizers.Tokenizer, text: str) -> list[list[str]]:
    """The text of each token, in one list a word."""
    opened = Tokenizer(tokenizer, max_input_length=64)
    (tokenized,) = opened.tokenize([text])
    found: list[list[str]] = []
    for (start, end), continues in zip(
        tokenized.offsets, opened.word_rule.continues_word(tokenized), strict=True
    ):
        if not continues or not found:
            found.append([])
        found[-1].append(text[start:end])
    return found


def test_a_vocabulary_that_marks_them_tells_what_continues_a_word() -> None:
    assert words(wordpiece(), "Playing the-plays") == [
        ["Play", "ing"],
        ["the"],
        ["-"],
        ["play", "s"],
    ]


def test_what_the_vocabulary_lacks_is_a_word_of_its_own() -> None:
    assert words(wordpiece(), "playing \u4e2d?qqqq plays") == [
        ["play", "ing"],
        ["\u4e2d"],
        ["?"],
        ["qqqq"],
        ["play", "s"],
    ]


def test_a_token_shorter_than_its_text_counts_as_a_continuation_as_in_transformers() -> None:
    # The normaliser takes the accent away, which in this text is a character of its own.
    assert words(wordpiece(), "the \u00e9te") == [["the"], ["\u00e9te"]]
    assert words(wordpiece(), "the e\u0301te") == [["the", "e\u0301te"]]


def test_another_vocabulary_starts_words_at_spaces_only() -> None:
    # The sign for a space is a token here, in front of the text too; what follows it is a word.
    assert words(unigram(), "ab. b-a") == [["a"], ["a", "b", "."], [" "], ["b"], ["-", "a"]]


def test_a_unigram_model_is_asked_for_its_unknown_token() -> None:
    assert WordRule.learn(unigram()).unk_token_id == 0
    assert WordRule.learn(unigram(unk_id=None)).unk_token_id is None


@pytest.mark.parametrize(("unk_token", "expected"), [("?", 1), (None, None)])
def test_other_models_name_their_unknown_token(unk_token: str | None, expected: int | None) -> None:
    model = models.BPE({"a": 0, "?": 1}, [], unk_token=unk_token)

    rule = WordRule.learn(tokenizers.Tokenizer(model))

    assert rule.unk_token_id == expected
    assert rule.token_lengths is None
