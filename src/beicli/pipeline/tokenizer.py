"""Inputs to token ids that fit the model's window, counting what is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers

from beicli.engine.batch import Int32, TokenSequence
from beicli.errors import ArtifactError, RequestError
from beicli.pipeline import refusals
from beicli.pipeline.refusals import name_input
from beicli.pipeline.special_tokens import fit_pair
from beicli.pipeline.text_tokenizer import InputName, TextTokenizer, all_ids

# No tokenizer in use makes fewer tokens than one in 250 characters of real text; cutting there
# first keeps a 100 MB string from occupying a thread for minutes. The figure is TEI's.
MAX_CHARACTERS_PER_TOKEN = 250

# What a client may send as one input: text, or token ids of this very tokenizer.
TextOrIds = str | list[int]
TextPair = tuple[str, str]


class TruncationDirection(StrEnum):
    """Which end of an overlong input is cut off."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Truncation:
    """What to do with an input beyond the model's window: cut it, or refuse the request."""

    allowed: bool = True
    direction: TruncationDirection = TruncationDirection.RIGHT


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """One tokenised input.

    num_dropped_tokens: how many tokens truncation cut off. Characters beyond 250 a token are
        neither tokenised nor counted, but where there are any this is at least 1.
    """

    sequence: TokenSequence
    num_dropped_tokens: int

    @property
    def input_ids(self) -> Int32:
        return self.sequence.input_ids

    @property
    def original_length(self) -> int:
        """Tokens before truncation, special tokens included."""
        return len(self.sequence) + self.num_dropped_tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    """A text without special tokens: what fits into the window, and how much did not."""

    ids: Int32
    num_dropped_tokens: int

    @property
    def original_length(self) -> int:
        return len(self.ids) + self.num_dropped_tokens


class Tokenizer(TextTokenizer):
    """A `tokenizer.json` with a fixed maximum length.

    takes_token_type_ids: whether pairs are to say which tokens belong to the second text.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        max_input_length: int,
        lowercase: bool = False,
        takes_token_type_ids: bool = False,
    ) -> None:
        super().__init__(tokenizer, max_piece_length=max_input_length, lowercase=lowercase)
        self._max_input_length = max_input_length
        self._max_characters = max_input_length * MAX_CHARACTERS_PER_TOKEN
        self._takes_token_type_ids = takes_token_type_ids
        num_special_tokens = self.special_tokens.num_around_pair
        if max_input_length <= num_special_tokens:
            raise ArtifactError(
                f"the engine takes {max_input_length} tokens an input, and the tokenizer puts "
                f"{num_special_tokens} special tokens around texts",
                hint="rebuild the engine for longer inputs",
            )

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        max_input_length: int,
        lowercase: bool = False,
        takes_token_type_ids: bool = False,
    ) -> Self:
        """Load `tokenizer.json` from `directory`."""
        path = directory / "tokenizer.json"
        try:
            # tokenizers raises plain Exception for everything, a missing file included.
            loaded = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(
                f"`{path}` cannot be loaded: {error}", hint="rebuild the engine with `bei build`"
            ) from error
        return cls(
            loaded,
            max_input_length=max_input_length,
            lowercase=lowercase,
            takes_token_type_ids=takes_token_type_ids,
        )

    @property
    def max_input_length(self) -> int:
        """Tokens an input may have, special tokens included."""
        return self._max_input_length

    @property
    def max_characters(self) -> int:
        """Characters of an input that are looked at."""
        return self._max_characters

    def encode(
        self,
        inputs: Sequence[TextOrIds],
        *,
        prefix: str = "",
        truncation: Truncation = Truncation(),
        name: InputName = name_input,
    ) -> list[Encoding]:
        """Tokenise each input; `prefix` is put before each text.

        Token ids are taken as they are: they carry their special tokens already.
        Raises RequestError naming the input at fault.
        """
        texts = []
        for index, item in enumerate(inputs):
            if isinstance(item, str):
                if not item:
                    raise refusals.empty_text(name(index))
                text = prefix + item
                if len(text) > self._max_characters:
                    self.check_characters(len(text), name(index), truncation)
                texts.append(text)
        encoded = iter(self._encode_texts(texts, truncation.direction))
        encodings = [
            next(encoded)
            if isinstance(item, str)
            else self._take_ids(item, name(index), truncation.direction)
            for index, item in enumerate(inputs)
        ]
        # Otherwise there is nothing to refuse: all fit, and none is without tokens.
        if not truncation.allowed or not self._special_tokens.num_around_text:
            for index, encoding in enumerate(encodings):
                self._check(encoding, index, truncation, name=name)
        return encodings

    def encode_pairs(
        self,
        pairs: Sequence[TextPair],
        *,
        truncation: Truncation = Truncation(),
        name: InputName = name_input,
        first_name: str = "the first text",
    ) -> list[Encoding]:
        """Tokenise pairs of texts, each distinct text once; the longer is cut first.

        Either text of a pair may be empty, not both. Raises RequestError naming the input, and
        its first text as `first_name`.
        """
        distinct: dict[str, None] = {}
        for index, (first, second) in enumerate(pairs):
            if not first and not second:
                raise refusals.empty_text(name(index))
            self.check_characters(len(first) + len(second), name(index), truncation)
            distinct[first] = distinct[second] = None
        encoded = self._encode_bare(list(distinct), truncation.direction)
        known = dict(zip(distinct, encoded, strict=True))
        encodings = []
        for index, (first, second) in enumerate(pairs):
            encoding = self._join(known[first], known[second], truncation.direction)
            part = self._overlong_part(known[first], first_name)
            self._check(encoding, index, truncation, name=name, part=part)
            encodings.append(encoding)
        return encodings

    def too_long(self, num_tokens: int, name: str, *, part: str = "") -> RequestError:
        """Make the error for an input of `num_tokens`, where truncation is not allowed."""
        return refusals.too_many_tokens(num_tokens, name, limit=self._max_input_length, part=part)

    def check_characters(self, num_characters: int, name: str, truncation: Truncation) -> None:
        """Refuse an input too long to be tokenised, unless it may be cut."""
        if num_characters > self._max_characters and not truncation.allowed:
            raise refusals.too_many_characters(num_characters, name, limit=self._max_characters)

    def cut_characters(self, text: str, direction: TruncationDirection) -> str:
        """Keep as much of a text as is looked at."""
        if len(text) <= self._max_characters:
            return text
        if direction is TruncationDirection.LEFT:
            return text[-self._max_characters :]
        return text[: self._max_characters]

    def _check(
        self,
        encoding: Encoding,
        index: int,
        truncation: Truncation,
        *,
        name: InputName,
        part: str = "",
    ) -> None:
        if encoding.num_dropped_tokens and not truncation.allowed:
            raise self.too_long(encoding.original_length, name(index), part=part)
        # Without special tokens around it nothing may be left of a text.
        if not len(encoding.sequence):
            raise refusals.nothing_to_compute(name(index))

    def _encode_texts(self, texts: list[str], direction: TruncationDirection) -> list[Encoding]:
        if direction is TruncationDirection.LEFT:
            return [self._wrap(text) for text in self._encode_bare(texts, direction)]
        cut = [self._lowered(self.cut_characters(text, direction)) for text in texts]
        num_special_tokens = self._special_tokens.num_around_text
        encodings = []
        for text, encoding in zip(
            texts, self._encode_batch(cut, add_special_tokens=True), strict=True
        ):
            num_dropped = sum(len(piece) - num_special_tokens for piece in encoding.overflowing)
            num_dropped = num_dropped or self._is_beyond_guard(text)
            sequence = TokenSequence(np.array(encoding.ids, dtype=np.int32))
            encodings.append(Encoding(sequence, num_dropped))
        return encodings

    def _encode_bare(self, texts: list[str], direction: TruncationDirection) -> list[_Text]:
        """Tokenise without special tokens, up to what the window could hold of one text."""
        cut = [self._lowered(self.cut_characters(text, direction)) for text in texts]
        bare = []
        for text, encoding in zip(texts, self._encode_batch(cut), strict=True):
            ids = all_ids(encoding)
            kept = _keep(ids, self._max_input_length, direction)
            num_dropped = max(len(ids) - len(kept), self._is_beyond_guard(text))
            bare.append(_Text(kept, num_dropped))
        return bare

    def _is_beyond_guard(self, text: str) -> int:
        """1 if characters were cut off before tokenising, 0 if not."""
        return int(len(text) > self._max_characters)

    def _wrap(self, text: _Text) -> Encoding:
        """Put special tokens around a text of which, if too much, the end is kept."""
        before, after = self._special_tokens.around_text
        room = self._max_input_length - len(before) - len(after)
        ids = _keep(text.ids, room, TruncationDirection.LEFT)
        sequence = TokenSequence(np.concatenate([before, ids, after], dtype=np.int32))
        return Encoding(sequence, text.original_length - len(ids))

    def _join(self, first: _Text, second: _Text, direction: TruncationDirection) -> Encoding:
        special = self._special_tokens
        # By their whole lengths, not by what is left of them: when both outgrow the window the
        # longer one gets the odd token.
        lengths = fit_pair(
            (first.original_length, second.original_length),
            self._max_input_length - special.num_around_pair,
        )
        sequence = special.join_pair(
            _keep(first.ids, lengths[0], direction),
            _keep(second.ids, lengths[1], direction),
            with_type_ids=self._takes_token_type_ids,
        )
        original_length = first.original_length + second.original_length + special.num_around_pair
        return Encoding(sequence, original_length - len(sequence))

    def _overlong_part(self, first: _Text, first_name: str) -> str:
        """Say so if the first text of a pair leaves no room for the second."""
        if first.original_length + self._special_tokens.num_around_pair <= self._max_input_length:
            return ""
        return f"{first_name} alone has {first.original_length} tokens"

    def _take_ids(self, ids: list[int], name: str, direction: TruncationDirection) -> Encoding:
        if not ids:
            raise refusals.empty_ids(name)
        self._check_vocabulary(ids, name)
        num_dropped = max(len(ids) - self._max_input_length, 0)
        if num_dropped and direction is TruncationDirection.LEFT:
            opening = ids[:1] if ids[0] in self._special_ids else []
            ids = opening + ids[num_dropped + len(opening) :]
        elif num_dropped:
            # Like truncating text: cut the middle's end, keep a closing special token.
            closing = ids[-1:] if ids[-1] in self._special_ids else []
            ids = ids[: self._max_input_length - len(closing)] + closing
        return Encoding(TokenSequence(np.array(ids, dtype=np.int32)), num_dropped)


def _keep(ids: Int32, max_num_tokens: int, direction: TruncationDirection) -> Int32:
    """Return the part of `ids` that truncation in a direction leaves."""
    if len(ids) <= max_num_tokens:
        return ids
    is_left = direction is TruncationDirection.LEFT
    return ids[len(ids) - max_num_tokens :] if is_left else ids[:max_num_tokens]
