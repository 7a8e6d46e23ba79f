"""Whole texts to tokens and back, with a checkpoint's own fast tokenizer; nothing is cut."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import tokenizers
from numpy.typing import NDArray

from beicli.engine.batch import Int32
from beicli.errors import TokenizerError
from beicli.pipeline.refusals import name_input, unknown_token
from beicli.pipeline.results import TokenizedText
from beicli.pipeline.special_tokens import SpecialTokens
from beicli.pipeline.words import WordRule

# How messages name the input at an index.
InputName = Callable[[int], str]

# The one letter whose small form, an i and a dot above, is longer.
_CAPITAL_I_WITH_DOT = "\u0130"


class TextTokenizer:
    """A `tokenizer.json`. Threads share it: after construction nothing of it changes.

    max_piece_length: tokens of a piece, special tokens included; what follows them of a text comes
        in further pieces.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, max_piece_length: int, lowercase: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._lowercase = lowercase
        self._vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._special_ids = frozenset(
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._special_tokens = SpecialTokens.learn(tokenizer)
        self._trims_offsets = _trims_offsets(tokenizer)
        # Length and direction are state of the tokenizer, so whatever is cut differently is put
        # together from these pieces.
        tokenizer.enable_truncation(max_length=max_piece_length)

    @property
    def special_tokens(self) -> SpecialTokens:
        """What stands around texts and pairs of texts."""
        return self._special_tokens

    @cached_property
    def word_rule(self) -> WordRule:
        """Which tokens continue a word; worked out when first asked for."""
        return WordRule.learn(self._tokenizer)

    def tokenize(
        self, texts: Sequence[str], *, prefix: str = "", add_special_tokens: bool = True
    ) -> list[TokenizedText]:
        """Tokenise whole texts, with offsets into `prefix + text`."""
        prepared = [self._lowered_in_place(prefix + text) for text in texts]
        encoded = self._encode_batch(prepared, has_offsets=True)
        return [
            self._tokenized(prefix + text, encoding, add_special_tokens=add_special_tokens)
            for text, encoding in zip(texts, encoded, strict=True)
        ]

    def encode_verbatim(self, texts: Sequence[str]) -> list[Int32]:
        """Tokenise texts that write their special tokens themselves; ids, [num_tokens]."""
        encodings = self._encode_batch([self._lowered_in_place(text) for text in texts])
        return [all_ids(encoding) for encoding in encodings]

    def decode(self, sequences: Sequence[list[int]], *, skip_special_tokens: bool) -> list[str]:
        """Turn token ids back into texts; raises RequestError for ids out of the vocabulary."""
        for index, ids in enumerate(sequences):
            self._check_vocabulary(ids, name_input(index))
        decoded: list[str] = self._tokenizer.decode_batch(
            list(sequences), skip_special_tokens=skip_special_tokens
        )
        return decoded

    def _lowered(self, text: str) -> str:
        return text.lower() if self._lowercase else text

    def _lowered_in_place(self, text: str) -> str:
        """Lowercase without changing the length, so that offsets stay true."""
        return text.replace(_CAPITAL_I_WITH_DOT, "i").lower() if self._lowercase else text

    def _tokenized(
        self, text: str, encoding: tokenizers.Encoding, *, add_special_tokens: bool
    ) -> TokenizedText:
        pieces = [encoding, *encoding.overflowing]
        ids = all_ids(encoding)
        tokens = [token for piece in pieces for token in piece.tokens]
        offsets = self._offsets(text, pieces)
        is_special = np.zeros(len(ids), dtype=np.bool_)
        if add_special_tokens:
            before, after = self._special_tokens.around_text
            names = [
                [self._tokenizer.id_to_token(int(i)) or "" for i in part]
                for part in (before, after)
            ]
            ids = np.concatenate([before, ids, after], dtype=np.int32)
            tokens = [*names[0], *tokens, *names[1]]
            offsets = np.pad(offsets, ((len(before), len(after)), (0, 0)))
            is_special = np.pad(is_special, (len(before), len(after)), constant_values=True)
        return TokenizedText(text, ids, tokens, offsets, is_special)

    def _offsets(self, text: str, pieces: list[tokenizers.Encoding]) -> NDArray[np.int64]:
        """Return where tokens start and end in `text`; [num_tokens, 2]."""
        offsets = np.array([span for piece in pieces for span in piece.offsets], dtype=np.int64)
        offsets = offsets.reshape(-1, 2)
        if self._trims_offsets:
            # tokenizers takes the first token of any piece for the first of its text, and leaves
            # it a space in case that was put there (`process_offsets` of its byte level).
            for token in np.cumsum([len(piece) for piece in pieces])[:-1]:
                start, end = offsets[token]
                if text[start : start + 1] == " ":
                    offsets[token] = start + 1, max(end, start + 1)
        return offsets

    def _check_vocabulary(self, ids: list[int], name: str) -> None:
        bad = next((i for i in ids if not 0 <= i < self._vocab_size), None)
        if bad is not None:
            raise unknown_token(bad, name, vocab_size=self._vocab_size)

    def _encode_batch(
        self, texts: list[str], *, add_special_tokens: bool = False, has_offsets: bool = False
    ) -> list[tokenizers.Encoding]:
        # Always the batch call, even for one text: `encode` keeps the GIL, this does not. The
        # fast one leaves offsets out.
        encode = self._tokenizer.encode_batch if has_offsets else self._tokenizer.encode_batch_fast
        try:
            return encode(texts, add_special_tokens=add_special_tokens)
        except Exception as error:
            # tokenizers raises nothing more precise.
            raise TokenizerError(
                f"tokenizer error {error}", hint="send valid Unicode text"
            ) from error


def _trims_offsets(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether spaces are left out of the offsets of their tokens."""
    offsets = tokenizer.encode("a a", add_special_tokens=False).offsets
    return not any(start <= 1 < end for start, end in offsets)


def all_ids(encoding: tokenizers.Encoding) -> Int32:
    """Ids of all pieces of a text that was tokenised without special tokens; [num_tokens]."""
    if not encoding.overflowing:
        return np.array(encoding.ids, dtype=np.int32)
    pieces = [encoding.ids, *(piece.ids for piece in encoding.overflowing)]
    return np.concatenate([np.array(ids, dtype=np.int32) for ids in pieces])
