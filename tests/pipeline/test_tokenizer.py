import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from beicli.errors import ArtifactError, EmptyInputError, RequestError, TokenizerError
from beicli.pipeline.tokenizer import Tokenizer, Truncation, TruncationDirection
from beicli.pipeline.tokenizer_pool import TokenizerPool

CLS, SEP, UNK = 1, 2, 3
LEFT = Truncation(direction=TruncationDirection.LEFT)
REFUSED = Truncation(allowed=False)


def word_level(**vocabulary: int) -> tokenizers.Tokenizer:
    vocab = {"[PAD]": 0, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNK, **vocabulary}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
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


@pytest.mark.parametrize("pair", [("a", "a \ud800"), ("\udfff", "a")])
def test_a_lone_surrogate_in_a_pair_is_refused_too(
    tokenizer: Tokenizer, pair: tuple[str, str]
) -> None:
    with pytest.raises(TokenizerError):
        tokenizer.encode_pairs([pair])
    with pytest.raises(TokenizerError):
        tokenizer.tokenize(list(pair))


def test_cutting_on_the_left_keeps_the_end_and_the_special_tokens(tokenizer: Tokenizer) -> None:
    whole, cut = tokenizer.encode(["b c", "a b c d query"], truncation=LEFT)

    assert whole.input_ids.tolist() == [CLS, 5, 6, SEP]
    assert cut.input_ids.tolist() == [CLS, 6, 7, 8, SEP]
    assert (whole.num_dropped_tokens, cut.num_dropped_tokens) == (0, 2)
    assert cut.input_ids.dtype == np.int32


def test_overlong_token_ids_cut_on_the_left_keep_their_opening_special_token(
    tokenizer: Tokenizer,
) -> None:
    opened, bare = tokenizer.encode(
        [[CLS, 4, 5, 6, 7, 4, SEP], [4, 5, 6, 7, 4, 5]], truncation=LEFT
    )

    assert opened.input_ids.tolist() == [CLS, 6, 7, 4, SEP]
    assert opened.num_dropped_tokens == 2
    assert bare.input_ids.tolist() == [5, 6, 7, 4, 5]


@pytest.mark.parametrize("direction", TruncationDirection)
@pytest.mark.parametrize("overlong", ["a b c d", [CLS, 4, 5, 6, 7, SEP]])
def test_an_overlong_input_is_refused_where_truncation_is(
    tokenizer: Tokenizer, overlong: str | list[int], direction: TruncationDirection
) -> None:
    with pytest.raises(RequestError) as failure:
        tokenizer.encode(["a", "b c d", overlong], truncation=Truncation(False, direction))

    # Five tokens were fine, whatever the words say; they are text-embeddings-inference's.
    assert failure.value.message == (
        "Input validation error: `inputs` must have less than 5 tokens. Given: 6"
    )
    assert "input 2" in (failure.value.hint or "")


def test_an_overlong_pair_is_refused_where_truncation_is(tokenizer: Tokenizer) -> None:
    pairs = [("a", "b"), ("a", "b c"), ("a b c d", "d")]

    with pytest.raises(RequestError) as failure:
        tokenizer.encode_pairs(pairs, truncation=REFUSED)

    assert failure.value.message.endswith("must have less than 5 tokens. Given: 6")
    assert "input 1 is too long; " in (failure.value.hint or "")


def test_the_first_text_of_a_pair_is_blamed_if_it_is_too_long_alone(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="Given: 7") as failure:
        tokenizer.encode_pairs([("a b c", "d")], truncation=REFUSED)

    assert "input 0 is too long: the first text alone has 3 tokens" in (failure.value.hint or "")


@pytest.mark.parametrize("direction", TruncationDirection)
def test_text_beyond_the_guard_is_refused_unread_where_truncation_is(
    tokenizer: Tokenizer, direction: TruncationDirection
) -> None:
    # 5 tokens of 250 characters each.
    truncation = Truncation(False, direction)
    tokenizer.encode(["a" + " " * 1249], truncation=truncation)
    with pytest.raises(RequestError, match=r"less than 1250 characters\. Given: 1251") as failure:
        tokenizer.encode(["a", "a" + " " * 1250], truncation=truncation)
    with pytest.raises(RequestError, match="Given: 1251"):
        tokenizer.encode_pairs([("a", "b" * 1250)], truncation=truncation)
    with pytest.raises(RequestError, match="Given: 1253"):
        tokenizer.encode(["a" + " " * 1249], prefix="a b", truncation=truncation)

    assert "input 1" in (failure.value.hint or "")


@pytest.mark.parametrize("direction", TruncationDirection)
def test_characters_far_beyond_the_window_are_not_tokenised(
    tokenizer: Tokenizer, direction: TruncationDirection
) -> None:
    truncation = Truncation(direction=direction)
    [encoding] = tokenizer.encode(["a " * 10_000], truncation=truncation)
    [pair] = tokenizer.encode_pairs([("b", "a " * 10_000)], truncation=truncation)

    # 5 tokens x 250 characters hold 625 times "a ", of which 3 fit beside the special tokens.
    assert encoding.num_dropped_tokens == 625 - 3
    assert pair.num_dropped_tokens == 625 - 1


@pytest.mark.parametrize("direction", TruncationDirection)
def test_characters_that_were_not_looked_at_count_as_truncation(
    tokenizer: Tokenizer, direction: TruncationDirection
) -> None:
    truncation = Truncation(direction=direction)
    text = "a" + " " * 2000 + "b"
    [encoding] = tokenizer.encode([text], truncation=truncation)
    [pair] = tokenizer.encode_pairs([("c", text)], truncation=truncation)

    kept = 4 if direction is TruncationDirection.RIGHT else 5
    assert encoding.input_ids.tolist() == [CLS, kept, SEP]
    assert encoding.num_dropped_tokens == pair.num_dropped_tokens == 1


def test_either_text_of_a_pair_may_be_empty_and_not_both(tokenizer: Tokenizer) -> None:
    encodings = tokenizer.encode_pairs([("a", ""), ("", "b")])
    with pytest.raises(EmptyInputError, match="`inputs` cannot be empty") as failure:
        tokenizer.encode_pairs([("a", "b"), ("", "")])

    assert [e.input_ids.tolist() for e in encodings] == [[CLS, 4, SEP, SEP], [CLS, SEP, 5, SEP]]
    assert "input 1" in (failure.value.hint or "")


def test_a_text_of_which_nothing_is_left_is_refused() -> None:
    bare = word_level(a=4)
    bare.post_processor = processors.Sequence([])
    tokenizer = Tokenizer(bare, max_input_length=5)

    with pytest.raises(EmptyInputError, match="`inputs` cannot be empty") as failure:
        tokenizer.encode(["a", "  "])
    with pytest.raises(EmptyInputError):
        tokenizer.encode_pairs([(" ", "  ")])

    assert "no tokens of input 1" in (failure.value.hint or "")


def test_callers_name_their_inputs(tokenizer: Tokenizer) -> None:
    def name(index: int) -> str:
        return f"passage {index * 10}"

    with pytest.raises(RequestError) as overlong:
        tokenizer.encode(["a", "a a a a"], truncation=REFUSED, name=name)
    with pytest.raises(RequestError) as empty:
        tokenizer.encode(["a", ""], name=name)
    with pytest.raises(RequestError) as foreign:
        tokenizer.encode(["a", [99]], name=name)

    assert "passage 10 is too long" in (overlong.value.hint or "")
    assert "passage 10 is an empty string" in (empty.value.hint or "")
    assert "of passage 10 is not in" in foreign.value.message


def test_tokenizing_tells_the_place_of_every_token_however_long_the_text() -> None:
    tokenizer = Tokenizer(word_level(a=4, b=5), max_input_length=5)

    [tokenized] = tokenizer.tokenize(["b " + "a " * 20], prefix="a ")

    assert tokenized.text == "a b " + "a " * 20
    assert tokenized.ids.tolist() == [CLS, 4, 5, *[4] * 20, SEP]
    assert tokenized.tokens == ["[CLS]", "a", "b", *["a"] * 20, "[SEP]"]
    assert tokenized.offsets[1:-1].tolist() == [[i, i + 1] for i in range(0, 44, 2)]
    assert tokenized.offsets[[0, -1]].tolist() == [[0, 0], [0, 0]]
    assert tokenized.is_special.tolist() == [True, *[False] * 22, True]


def test_tokenizing_without_special_tokens_leaves_them_out(tokenizer: Tokenizer) -> None:
    [tokenized] = tokenizer.tokenize(["a [SEP]"], add_special_tokens=False)

    assert tokenized.ids.tolist() == [4, SEP]
    # The text wrote this one itself.
    assert tokenized.is_special.tolist() == [False, False]


def test_lowercasing_moves_no_offset() -> None:
    raw = word_level(i=4, stanbul=5, istanbul=6, σας=7)
    tokenizer = Tokenizer(raw, max_input_length=9, lowercase=True)

    [tokenized] = tokenizer.tokenize(["İstanbul ΣΑΣ"])

    assert tokenized.tokens[1:-1] == ["istanbul", "σας"]
    assert tokenized.offsets[1:-1].tolist() == [[0, 8], [9, 12]]
    assert tokenized.text == "İstanbul ΣΑΣ"


def test_ids_become_text_again_and_foreign_ones_are_refused(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([[CLS, 4, 5, SEP]], skip_special_tokens=True) == ["a b"]
    assert tokenizer.decode([[CLS, 4]], skip_special_tokens=False) == ["[CLS] a"]
    with pytest.raises(RequestError, match="token id 99 of input 1"):
        tokenizer.decode([[4], [99]], skip_special_tokens=True)


def test_threads_share_a_tokenizer_and_both_directions() -> None:
    tokenizer = Tokenizer(word_level(a=4, b=5, c=6), max_input_length=5)
    wanted = {
        TruncationDirection.RIGHT: ([CLS, 4, 5, 6, SEP], [CLS, 4, SEP, 6, SEP]),
        TruncationDirection.LEFT: ([CLS, 6, 5, 4, SEP], [CLS, 5, SEP, 4, SEP]),
    }

    def work(number: int) -> bool:
        direction = list(wanted)[number % 2]
        truncation = Truncation(direction=direction)
        [text] = tokenizer.encode(["a b c " * 40 + "c b a"], truncation=truncation)
        [pair] = tokenizer.encode_pairs([("a b " * 9, "c b a " * 9)], truncation=truncation)
        found = (text.input_ids.tolist(), pair.input_ids.tolist())
        return found == wanted[direction]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(400)))


def test_the_files_own_padding_and_truncation_do_not_apply() -> None:
    raw = word_level(a=4)
    raw.enable_padding(length=128)
    raw.enable_truncation(max_length=2)

    assert Tokenizer(raw, max_input_length=5).encode(["a"])[0].input_ids.tolist() == [CLS, 4, SEP]


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json` cannot be loaded"):
        Tokenizer.open(tmp_path, max_input_length=5)


def test_a_pool_encodes_short_and_long_requests_alike(tokenizer: Tokenizer) -> None:
    pool = TokenizerPool(num_threads=2)

    async def many() -> list[list[int]]:
        texts = ["a " * (1 + 700 * (i % 2)) for i in range(20)]
        requests = [
            pool.run(partial(tokenizer.encode, [text]), num_characters=len(text)) for text in texts
        ]
        results = await asyncio.gather(*requests)
        return [result[0].input_ids.tolist() for result in results]

    try:
        assert asyncio.run(many()) == [[CLS, 4, SEP], [CLS, 4, 4, 4, SEP]] * 10
    finally:
        pool.close()
