import asyncio
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from beicli.errors import ArtifactError, EmptyInputError, RequestError, TokenizerError
from beicli.pipeline.tokenizer import Tokenizer, TokenizerPool

CLS, SEP, UNK = 1, 2, 3


def word_level(**vocabulary: int) -> tokenizers.Tokenizer:
    vocab = {"[PAD]": 0, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNK, **vocabulary}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    return tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(word_level(a=4, b=5, c=6, d=7, query=8), max_input_length=5)


def test_texts_come_back_with_special_tokens_in_order(tokenizer: Tokenizer) -> None:
    encodings = tokenizer.encode(["a b", "c"])

    assert [e.input_ids.tolist() for e in encodings] == [[CLS, 4, 5, SEP], [CLS, 6, SEP]]
    assert all(e.input_ids.dtype == np.int32 for e in encodings)
    assert [e.num_dropped_tokens for e in encodings] == [0, 0]


def test_truncation_keeps_the_special_tokens_and_counts_what_it_dropped(
    tokenizer: Tokenizer,
) -> None:
    [encoding] = tokenizer.encode(["a b c d a b c d a b"])

    assert encoding.input_ids.tolist() == [CLS, 4, 5, 6, SEP]
    assert encoding.num_dropped_tokens == 7


def test_a_prefix_is_put_before_texts_and_not_before_ids(tokenizer: Tokenizer) -> None:
    encodings = tokenizer.encode(["a", [CLS, 4, SEP]], prefix="query ")

    assert [e.input_ids.tolist() for e in encodings] == [[CLS, 8, 4, SEP], [CLS, 4, SEP]]


def test_token_ids_are_taken_as_they_are(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([[7, 6]])[0].input_ids.tolist() == [7, 6]


def test_overlong_token_ids_are_cut_but_keep_their_closing_special_token(
    tokenizer: Tokenizer,
) -> None:
    closed, open_ended = tokenizer.encode([[CLS, 4, 5, 6, 7, 4, SEP], [4, 5, 6, 7, 4, 5]])

    assert closed.input_ids.tolist() == [CLS, 4, 5, 6, SEP]
    assert closed.num_dropped_tokens == 2
    assert open_ended.input_ids.tolist() == [4, 5, 6, 7, 4]


@pytest.mark.parametrize("bad", [-1, 9, 2**40])
def test_a_foreign_token_id_is_refused_with_its_input(tokenizer: Tokenizer, bad: int) -> None:
    with pytest.raises(RequestError, match=f"token id {bad} of input 1") as failure:
        tokenizer.encode(["a", [4, bad]])

    assert "tokenizer" in (failure.value.hint or "")


@pytest.mark.parametrize("empty", ["", []])
def test_an_empty_input_is_refused_and_named(tokenizer: Tokenizer, empty: str | list[int]) -> None:
    with pytest.raises(EmptyInputError, match="`inputs` cannot be empty") as failure:
        tokenizer.encode(["a", empty])

    assert "input 1" in (failure.value.hint or "")


def test_a_space_is_not_empty(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([" "])[0].input_ids.tolist() == [CLS, SEP]


def test_lowercasing_happens_before_tokenising() -> None:
    tokenizer = Tokenizer(word_level(a=4), max_input_length=5, lowercase=True)

    assert tokenizer.encode(["A"])[0].input_ids.tolist() == [CLS, 4, SEP]


def test_a_lone_surrogate_is_refused_and_not_a_crash(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError):
        tokenizer.encode(["a \ud800 b"])


def test_characters_far_beyond_the_window_are_not_tokenised(tokenizer: Tokenizer) -> None:
    [encoding] = tokenizer.encode(["a " * 10_000])

    # 5 tokens x 250 characters hold 625 times "a ", of which 3 fit beside the special tokens.
    assert encoding.num_dropped_tokens == 625 - 3


def test_the_files_own_padding_and_truncation_do_not_apply() -> None:
    raw = word_level(a=4)
    raw.enable_padding(length=128)
    raw.enable_truncation(max_length=2)

    assert Tokenizer(raw, max_input_length=5).encode(["a"])[0].input_ids.tolist() == [CLS, 4, SEP]


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json` cannot be loaded"):
        Tokenizer.open(tmp_path, max_input_length=5)


def test_a_pool_encodes_short_and_long_requests_alike(tokenizer: Tokenizer) -> None:
    pool = TokenizerPool(tokenizer, num_threads=2)

    async def many() -> list[list[int]]:
        requests = [pool.encode(["a " * (1 + 700 * (i % 2))]) for i in range(20)]
        results = await asyncio.gather(*requests)
        return [result[0].input_ids.tolist() for result in results]

    try:
        assert asyncio.run(many()) == [[CLS, 4, SEP], [CLS, 4, 4, 4, SEP]] * 10
    finally:
        pool.close()
