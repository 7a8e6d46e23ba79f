"""Long texts in windows: pure rules first, then with a tokenizer."""

from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.server.fakes import MAX_INPUT_LENGTH, make_tokenizer
from tokenizers import pre_tokenizers, processors

from beicli.engine.batch import Float32
from beicli.errors import EmptyInputError
from beicli.pipeline.tokenizer import Tokenizer, Truncation, TruncationDirection
from beicli.pipeline.windows import (
    Window,
    merge_texts,
    merge_windows,
    plan_windows,
    window_texts,
)

WHOLE = Truncation(allowed=False)
LEFT = Truncation(direction=TruncationDirection.LEFT)

word_lengths = st.lists(st.integers(1, 12), max_size=60)
sizes = st.integers(1, 40)


def continues_word(lengths: list[int]) -> NDArray[np.bool_]:
    return np.array([place > 0 for length in lengths for place in range(length)], dtype=np.bool_)


def distance_from_cut(window: Window, token: int, num_tokens: int) -> float:
    from_start = token - window.start if window.start > 0 else float("inf")
    to_end = window.end - 1 - token if window.end < num_tokens else float("inf")
    return min(from_start, to_end)


def own_numbers(windows: list[Window]) -> list[Float32]:
    """Rows that tell which window and which token they belong to."""
    return [
        np.array([[number, token] for token in range(window.start, window.end)], np.float32)
        for number, window in enumerate(windows)
    ]


@given(word_lengths, sizes)
def test_windows_cover_the_text_in_order_and_keep_to_their_size(
    lengths: list[int], size: int
) -> None:
    windows = plan_windows(continues_word(lengths), size=size)

    assert windows[0].start == 0
    assert windows[-1].end == sum(lengths)
    assert all(window.end - window.start <= size for window in windows)
    for before, after in pairwise(windows):
        assert before.start < after.start <= before.end < after.end


@given(word_lengths, sizes)
def test_neighbours_share_a_quarter_to_half_of_a_window(lengths: list[int], size: int) -> None:
    windows = plan_windows(continues_word(lengths), size=size)

    for before, after in pairwise(windows):
        assert size // 4 <= before.end - after.start <= size // 2


@given(word_lengths, sizes)
def test_no_window_starts_or_ends_inside_a_word_up_to_a_quarter_of_it(
    lengths: list[int], size: int
) -> None:
    word_of_token = np.repeat(np.arange(len(lengths)), lengths)

    windows = plan_windows(continues_word(lengths), size=size)

    cuts = {window.start for window in windows[1:]} | {window.end for window in windows[:-1]}
    broken = [
        int(word_of_token[cut]) for cut in cuts if word_of_token[cut - 1] == word_of_token[cut]
    ]
    assert all(lengths[word] > size // 4 for word in broken)


@given(word_lengths, sizes)
def test_each_token_is_taken_once_from_the_window_where_it_is_farthest_from_a_cut(
    lengths: list[int], size: int
) -> None:
    num_tokens = sum(lengths)
    windows = plan_windows(continues_word(lengths), size=size)

    merged = merge_windows(windows, [rows.reshape(-1, 2) for rows in own_numbers(windows)])

    assert merged[:, 1].tolist() == list(range(num_tokens))
    for token, number in enumerate(merged[:, 0].astype(int)):
        distances = [
            distance_from_cut(window, token, num_tokens)
            for window in windows
            if window.start <= token < window.end
        ]
        assert distance_from_cut(windows[number], token, num_tokens) == max(distances)


def test_a_text_that_fits_has_one_window() -> None:
    assert plan_windows(np.zeros(7, np.bool_), size=7) == [Window(0, 7)]


def test_a_text_without_tokens_has_one_empty_window() -> None:
    assert plan_windows(np.zeros(0, np.bool_), size=7) == [Window(0, 0)]


def test_a_word_longer_than_all_windows_is_cut_evenly() -> None:
    windows = plan_windows(np.arange(20) > 0, size=8)

    assert windows == [Window(0, 8), Window(6, 14), Window(12, 20)]


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="not 0"):
        plan_windows(np.zeros(3, np.bool_), size=0)


def test_every_window_has_the_special_tokens_and_the_text_has_them_once() -> None:
    tokenizer = make_tokenizer()
    text = " ".join(f"w{number}" for number in range(40))

    (windowed,) = window_texts(tokenizer, [text], WHOLE)
    sequences = [encoding.input_ids for encoding in windowed.encodings()]
    merged = windowed.merge([ids[:, None].astype(np.float32) for ids in sequences])

    assert len(sequences) > 1
    assert all((ids[0], ids[-1]) == (2, 3) and len(ids) <= MAX_INPUT_LENGTH for ids in sequences)
    assert merged[:, 0].tolist() == windowed.text.ids.tolist() == [2, *range(4, 44), 3]


def test_special_tokens_take_their_rows_from_the_first_and_the_last_window() -> None:
    tokenizer = make_tokenizer()
    (windowed,) = window_texts(tokenizer, ["w1 " * 40], WHOLE)
    outputs = [
        np.full((len(encoding.sequence), 1), number, np.float32)
        for number, encoding in enumerate(windowed.encodings())
    ]

    merged = windowed.merge(outputs)

    assert merged[0] == 0
    assert merged[-1] == len(outputs) - 1


def test_texts_of_one_and_of_several_windows_get_their_own_rows() -> None:
    texts = window_texts(make_tokenizer(), ["w1", "w2 " * 40, "w3 w4"], WHOLE)
    outputs = [
        encoding.input_ids[:, None].astype(np.float32)
        for text in texts
        for encoding in text.encodings()
    ]

    merged = merge_texts(texts, outputs)

    for text, rows in zip(texts, merged, strict=True):
        assert rows[:, 0].tolist() == text.text.ids.tolist()


@given(
    st.lists(st.text("w123 ", min_size=1, max_size=80), min_size=1, max_size=4),
    st.sampled_from(TruncationDirection),
)
def test_truncation_leaves_what_encoding_a_text_leaves(
    texts: list[str], direction: TruncationDirection
) -> None:
    tokenizer = make_tokenizer()
    truncation = Truncation(direction=direction)

    windowed = window_texts(tokenizer, texts, truncation)

    for text, expected in zip(
        windowed, tokenizer.encode(texts, truncation=truncation), strict=True
    ):
        (encoding,) = text.encodings()
        assert encoding.input_ids.tolist() == expected.input_ids.tolist()
        assert encoding.num_dropped_tokens == expected.num_dropped_tokens
        assert text.original_length == expected.original_length
        assert len(text.text.tokens) == len(text.text.offsets) == len(encoding.sequence)


@pytest.mark.parametrize(("truncation", "kept"), [(Truncation(), "w1"), (LEFT, "w2")])
def test_offsets_count_from_the_text_s_start_however_much_of_it_is_not_read(
    truncation: Truncation, kept: str
) -> None:
    tokenizer = make_tokenizer()
    text = "w1 " + " " * tokenizer.max_characters + " w2"

    (windowed,) = window_texts(tokenizer, [text], truncation)

    ((start, end),) = windowed.text.offsets[1:-1]
    assert text[start:end] == kept
    assert windowed.num_dropped_tokens == 1
    assert windowed.text.offsets[[0, -1]].tolist() == [[0, 0], [0, 0]]


def test_an_empty_text_is_refused_by_its_place() -> None:
    with pytest.raises(EmptyInputError, match="`inputs` cannot be empty") as caught:
        window_texts(make_tokenizer(), ["w1", ""], Truncation())

    assert "input 1" in str(caught.value.hint)


def test_a_text_of_which_no_token_is_made_is_refused_if_nothing_stands_around_it() -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(words, max_input_length=8)

    with pytest.raises(EmptyInputError, match="cannot be empty"):
        window_texts(tokenizer, ["a", "  "], WHOLE)


def test_a_long_text_has_the_offsets_it_would_have_in_one_piece() -> None:
    def open_byte_level(max_input_length: int) -> Tokenizer:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: index for index, token in enumerate([*alphabet, "\u0120a"])}
        raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("\u0120", "a")]))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        raw.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=True)
        return Tokenizer(raw, max_input_length=max_input_length)

    text = "a a  a a a\u00e9 a a a"
    (narrow,), (roomy,) = (
        window_texts(open_byte_level(length), [text], WHOLE) for length in (3, 100)
    )

    assert len(narrow.windows) > len(roomy.windows) == 1
    assert narrow.text.offsets.tolist() == roomy.text.offsets.tolist()
