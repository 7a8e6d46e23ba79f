"""Text to token ids with the checkpoint's own fast tokenizer, in threads, counting what is cut."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from beicli.engine.batch import Int32
from beicli.errors import ArtifactError, EmptyInputError, RequestError, TokenizerError

# No tokenizer in use makes fewer tokens than one in 250 characters of real text; cutting there
# first keeps a 100 MB string from occupying a thread for minutes. The figure is TEI's.
MAX_CHARACTERS_PER_TOKEN = 250

# Up to here tokenising takes less time (0.1 ms) than handing it to a thread and back (0.2 ms).
MAX_CHARACTERS_INLINE = 1000

# What a client may send as one input: text, or token ids of this very tokenizer.
TextOrIds = str | list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """One tokenised input.

    input_ids: [num_tokens], int32, special tokens included.
    num_dropped_tokens: how many tokens truncation cut off. For a text beyond
        250 characters a token the characters behind that are not tokenised, nor counted.
    """

    input_ids: Int32
    num_dropped_tokens: int


class Tokenizer:
    """A `tokenizer.json` with a fixed maximum length."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, max_input_length: int, lowercase: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._max_input_length = max_input_length
        self._max_characters = max_input_length * MAX_CHARACTERS_PER_TOKEN
        self._lowercase = lowercase
        self._vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._num_special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False)
        self._special_ids = frozenset(
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        )
        tokenizer.no_padding()
        # Set once: it is state of the shared tokenizer, and threads read it.
        tokenizer.enable_truncation(max_length=max_input_length)

    @classmethod
    def open(
        cls, directory: Path, *, max_input_length: int, lowercase: bool = False
    ) -> "Tokenizer":
        """Load `tokenizer.json` from `directory`."""
        path = directory / "tokenizer.json"
        try:
            # tokenizers raises plain Exception for everything, a missing file included.
            loaded = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(
                f"`{path}` cannot be loaded: {error}", hint="rebuild the engine with `bei build`"
            ) from error
        return cls(loaded, max_input_length=max_input_length, lowercase=lowercase)

    @property
    def max_input_length(self) -> int:
        """Tokens an input may have, special tokens included."""
        return self._max_input_length

    def encode(self, inputs: Sequence[TextOrIds], *, prefix: str = "") -> list[Encoding]:
        """Tokenise each input; `prefix` is put before each text.

        Token ids are taken as they are: they carry their special tokens already.
        Raises RequestError naming the input at fault.
        """
        texts = [
            self._prepare_text(item, index, prefix)
            for index, item in enumerate(inputs)
            if isinstance(item, str)
        ]
        encoded = iter(self._encode_texts(texts))
        return [
            next(encoded) if isinstance(item, str) else self._check_ids(item, index)
            for index, item in enumerate(inputs)
        ]

    def _prepare_text(self, text: str, index: int, prefix: str) -> str:
        if not text:
            raise EmptyInputError(
                "Input validation error: `inputs` cannot be empty",
                hint=f"input {index} is an empty string: leave it out or send a text",
            )
        text = (prefix + text)[: self._max_characters]
        return text.lower() if self._lowercase else text

    def _encode_texts(self, texts: list[str]) -> list[Encoding]:
        try:
            # Always the batch call, even for one text: `encode` keeps the GIL, this does not.
            encodings = self._tokenizer.encode_batch_fast(texts)
        except Exception as error:
            raise TokenizerError(
                f"tokenizer error {error}", hint="send valid Unicode text"
            ) from error
        return [
            Encoding(
                np.array(encoding.ids, dtype=np.int32),
                sum(len(cut.ids) - self._num_special_tokens for cut in encoding.overflowing),
            )
            for encoding in encodings
        ]

    def _check_ids(self, ids: list[int], index: int) -> Encoding:
        if not ids:
            raise EmptyInputError(
                "Input validation error: `inputs` cannot be empty",
                hint=f"input {index} is an empty list of token ids: leave it out",
            )
        bad = next((i for i in ids if not 0 <= i < self._vocab_size), None)
        if bad is not None:
            raise RequestError(
                f"Input validation error: token id {bad} of input {index} is not in this model's "
                f"vocabulary of {self._vocab_size} tokens",
                hint="token ids must come from this model's own tokenizer; send the text instead",
            )
        num_dropped = max(len(ids) - self._max_input_length, 0)
        if num_dropped:
            # Like truncating text: cut the middle's end, keep a closing special token.
            closing = ids[-1:] if ids[-1] in self._special_ids else []
            ids = ids[: self._max_input_length - len(closing)] + closing
        return Encoding(np.array(ids, dtype=np.int32), num_dropped)


class TokenizerPool:
    """Runs a tokenizer in threads, so long requests do not hold up the event loop."""

    def __init__(self, tokenizer: Tokenizer, *, num_threads: int) -> None:
        self._tokenizer = tokenizer
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="bei-tokenizer")

    async def encode(self, inputs: Sequence[TextOrIds], *, prefix: str = "") -> list[Encoding]:
        """As `Tokenizer.encode`, off the event loop unless it is over at once."""
        if sum(map(len, inputs)) <= MAX_CHARACTERS_INLINE:
            return self._tokenizer.encode(inputs, prefix=prefix)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, lambda: self._tokenizer.encode(inputs, prefix=prefix)
        )

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
