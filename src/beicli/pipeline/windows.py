"""Long texts cut into overlapping windows, and their tokens' outputs put together again.

A text's two ends are no cuts: only where a window ends in the middle of its text do its tokens
miss something they would otherwise see.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from beicli.engine.batch import Float32, TokenSequence
from beicli.pipeline.refusals import empty_text, name_input, nothing_to_compute
from beicli.pipeline.results import TokenizedText
from beicli.pipeline.tokenizer import (
    Encoding,
    Tokenizer,
    Truncation,
    TruncationDirection,
)
from beicli.pipeline.words import WordRule

# What neighbours share, as a part of a window. A token next to a cut sees nothing beyond it but
# has the whole overlap there in the other window; a quarter costs a third more tokens to compute.
_OVERLAP = 4


@dataclass(frozen=True, slots=True)
class Window:
    """A run of a text's own tokens, special tokens not counted; `end` is the first one outside."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class WindowedText:
    """A tokenised text and the sequences it is computed as.

    text: what truncation left of it; num_dropped_tokens: what it took.
    num_around: special tokens before and after every window, as before and after the text.
    """

    text: TokenizedText
    windows: list[Window]
    num_around: tuple[int, int]
    num_dropped_tokens: int = 0

    @property
    def original_length(self) -> int:
        """Tokens before truncation, special tokens included."""
        return len(self.text.ids) + self.num_dropped_tokens

    def encodings(self) -> list[Encoding]:
        """Return one sequence a window, each with the text's special tokens around it."""
        before, ids, after = np.split(self.text.ids, self._bounds())
        return [
            Encoding(
                TokenSequence(np.concatenate([before, ids[window.start : window.end], after])),
                self.num_dropped_tokens,
            )
            for window in self.windows
        ]

    def merge(self, outputs: Sequence[Float32]) -> Float32:
        """Return one row a token of the text, [num_tokens, dimension].

        outputs: of each window, [num_tokens of it with its special tokens, dimension].
        Opening special tokens take their rows from the first window, closing ones from the last.
        """
        if len(outputs) == 1:
            return outputs[0]
        num_before, num_after = self.num_around
        inner = [rows[num_before : len(rows) - num_after] for rows in outputs]
        merged = merge_windows(self.windows, inner)
        last = outputs[-1]
        return np.concatenate([outputs[0][:num_before], merged, last[len(last) - num_after :]])

    def _bounds(self) -> list[int]:
        num_before, num_after = self.num_around
        return [num_before, len(self.text.ids) - num_after]


def window_texts(
    tokenizer: Tokenizer, texts: Sequence[str], truncation: Truncation
) -> list[WindowedText]:
    """Tokenise texts, each cut to the model's window or spread over several of them.

    Truncation cuts what the tokenizer itself would cut: tokens of the text, no special ones.
    Raises EmptyInputError naming the text.
    """
    for index, text in enumerate(texts):
        if not text:
            raise empty_text(name_input(index))
    size = tokenizer.max_input_length - tokenizer.special_tokens.num_around_text
    before, after = tokenizer.special_tokens.around_text
    num_around = (len(before), len(after))
    if truncation.allowed:
        cut = [
            _truncate(text, size, num_around, truncation.direction)
            for text in _tokenize_ends(tokenizer, texts, truncation.direction)
        ]
        windowed = [
            # Of what is not even tokenised nobody knows how many tokens it is; at least one.
            replace(text, num_dropped_tokens=max(text.num_dropped_tokens, 1))
            if len(whole) > tokenizer.max_characters
            else text
            for whole, text in zip(texts, cut, strict=True)
        ]
    else:
        windowed = [
            _spread(text, size, num_around, tokenizer.word_rule)
            for text in tokenizer.tokenize(texts)
        ]
    for index, item in enumerate(windowed):
        # Without special tokens around it nothing may be left of a text.
        if not len(item.text.ids):
            raise nothing_to_compute(name_input(index))
    return windowed


def merge_texts(texts: Sequence[WindowedText], outputs: Sequence[Float32]) -> list[Float32]:
    """Return each text's rows from those of all their windows, in order."""
    remaining = iter(outputs)
    return [text.merge([next(remaining) for _ in text.windows]) for text in texts]


def plan_windows(continues_word: NDArray[np.bool_], *, size: int) -> list[Window]:
    """Cover a text's tokens with windows of at most `size`, in their order.

    continues_word: [num_tokens], which tokens belong to the word of the token before.
    Neighbours share a quarter of `size` or more, up to a half. No window starts or ends inside a
    word of at most a quarter of `size`. A text without tokens has one window, without tokens.
    Raises ValueError if `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"a window needs room for at least one token, not {size}")
    num_tokens = len(continues_word)
    overlap = size // _OVERLAP
    windows = [Window(0, min(size, num_tokens))]
    while windows[-1].end < num_tokens:
        start = windows[-1].start
        end = _last_word_start(continues_word, start + size, slack=overlap)
        windows[-1] = Window(start, end)
        start = _last_word_start(continues_word, end - overlap, slack=overlap)
        windows.append(Window(start, min(start + size, num_tokens)))
    return windows


def merge_windows(windows: Sequence[Window], outputs: Sequence[Float32]) -> Float32:
    """Take each token's row from the window where it stands farthest from a cut.

    outputs: of each window, [end - start, dimension]. Returns [num_tokens, dimension]. Where two
    windows are equally good the earlier one is taken.
    """
    num_tokens = windows[-1].end
    farthest = np.full(num_tokens, -1, dtype=np.int64)
    merged = np.empty((num_tokens, outputs[0].shape[1]), dtype=np.float32)
    for window, rows in zip(windows, outputs, strict=True):
        distances = _distances_from_cuts(window, num_tokens)
        is_better = distances > farthest[window.start : window.end]
        farthest[window.start : window.end][is_better] = distances[is_better]
        merged[window.start : window.end][is_better] = rows[is_better]
    return merged


def _distances_from_cuts(window: Window, num_tokens: int) -> NDArray[np.int64]:
    places = np.arange(window.start, window.end)
    # A text's own end is farther away than any cut.
    from_start = places - window.start if window.start > 0 else np.full_like(places, num_tokens)
    is_last = window.end == num_tokens
    to_end = np.full_like(places, num_tokens) if is_last else window.end - 1 - places
    return np.minimum(from_start, to_end)


def _last_word_start(continues_word: NDArray[np.bool_], place: int, *, slack: int) -> int:
    """Return the last token up to `place` that starts a word, `place` if `slack` is not enough."""
    nearest = range(place, max(place - slack, 0) - 1, -1)
    return next((token for token in nearest if not continues_word[token]), place)


def _spread(
    text: TokenizedText, size: int, num_around: tuple[int, int], word_rule: WordRule
) -> WindowedText:
    own = slice(num_around[0], len(text.ids) - num_around[1])
    windows = plan_windows(word_rule.continues_word(text)[own], size=size)
    return WindowedText(text, windows, num_around)


def _truncate(
    text: TokenizedText, size: int, num_around: tuple[int, int], direction: TruncationDirection
) -> WindowedText:
    """Keep `size` tokens of a text's beginning or end, beside its special tokens."""
    num_before, num_after = num_around
    num_dropped = max(len(text.ids) - num_before - num_after - size, 0)
    window = Window(0, len(text.ids) - num_before - num_after - num_dropped)
    if num_dropped:
        is_left = direction is TruncationDirection.LEFT
        start = num_before if is_left else len(text.ids) - num_after - num_dropped
        kept = np.delete(np.arange(len(text.ids)), np.s_[start : start + num_dropped])
        text = replace(
            text,
            ids=text.ids[kept],
            tokens=[text.tokens[place] for place in kept],
            offsets=text.offsets[kept],
            is_special=text.is_special[kept],
        )
    return WindowedText(text, [window], num_around, num_dropped)


def _tokenize_ends(
    tokenizer: Tokenizer, texts: Sequence[str], direction: TruncationDirection
) -> list[TokenizedText]:
    """Tokenise what the window could hold of each text: its beginning, or its end."""
    cut = [tokenizer.cut_characters(text, direction) for text in texts]
    tokenized = tokenizer.tokenize(cut)
    if direction is TruncationDirection.RIGHT:
        return tokenized
    return [
        replace(end, text=whole, offsets=end.offsets + _shift(end, len(whole) - len(part)))
        for whole, part, end in zip(texts, cut, tokenized, strict=True)
    ]


def _shift(text: TokenizedText, num_characters: int) -> NDArray[np.int64]:
    """Move a text's own tokens, [num_tokens, 1]; special tokens stay at 0."""
    return np.where(text.is_special, 0, num_characters)[:, None]
