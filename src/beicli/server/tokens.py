"""`/tokenize` and `/decode` in text-embeddings-inference's shape: texts to tokens and back."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from beicli.errors import EmptyInputError, InputTooLongError
from beicli.pipeline.refusals import too_many_characters
from beicli.pipeline.results import TokenizedText
from beicli.pipeline.tokenizer import MAX_CHARACTERS_PER_TOKEN
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import RequestSize
from beicli.server.negotiation import Answer

# The least code points of two, three and four bytes in UTF-8.
_WIDER_FROM = (0x80, 0x800, 0x10000)
# Describing a token takes a microsecond; beyond this many characters a thread does it.
_MAX_CHARACTERS_INLINE = 1000


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A body of `/tokenize` that has been checked."""

    texts: list[str]
    add_special_tokens: bool
    prompt_name: str | None
    size: RequestSize


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """A body of `/decode` that has been checked."""

    sequences: list[list[int]]
    skip_special_tokens: bool
    size: RequestSize


class TokenizeHandler:
    """`/tokenize`: the tokens of whole texts, with the bytes of the text they stand for.

    Offsets count from the start of the prompt, if there is one. A token that is only part of a
    character has the whole character for its text.
    """

    family: ClassVar[None] = None
    input_field: ClassVar[str] = "inputs"
    example: ClassVar[str] = '{"inputs": "some text"}'

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> TokenizeRequest:
        """Check a body; unknown fields are ignored."""
        texts, is_batch = self._parse_texts(body)
        return TokenizeRequest(
            texts=texts,
            add_special_tokens=fields.flag(body, "add_special_tokens", default=True),
            prompt_name=fields.optional(body, "prompt_name", str, "a string"),
            size=RequestSize(len(texts), sum(map(len, texts)), is_batch),
        )

    async def answer(self, request: TokenizeRequest) -> Answer:
        """Tokenise the texts."""
        pipeline = self._state.pipeline
        prompt = pipeline.find_prompt(prompt_name=request.prompt_name, input_type=None)
        texts = await pipeline.tokenize(
            request.texts, add_special_tokens=request.add_special_tokens, prompt=prompt
        )
        if request.size.num_characters <= _MAX_CHARACTERS_INLINE:
            return Answer(_describe_all(texts), usage=None)
        return Answer(await asyncio.to_thread(_describe_all, texts), usage=None)

    def _parse_texts(self, body: dict[str, Any]) -> tuple[list[str], bool]:
        hint = f"send {self.example}"
        value = fields.required(body, "inputs", hint=hint)
        is_batch = not isinstance(value, str)
        if is_batch and not isinstance(value, list):
            raise fields.wrong_type("inputs", value, "a text or a list of texts")
        limit = self._state.options.max_client_batch_size
        wrapped = {"inputs": value if is_batch else [value]}
        texts = fields.texts(wrapped, "inputs", max_batch_size=limit, hint=hint)
        self._check_lengths(texts)
        return texts, is_batch

    def _check_lengths(self, texts: list[str]) -> None:
        limit = self._state.pipeline.manifest.limits.max_input_length * MAX_CHARACTERS_PER_TOKEN
        for index, text in enumerate(texts):
            if len(text) > limit:
                raise InputTooLongError(
                    too_many_characters(len(text), "", limit=limit).message,
                    hint=f"input {index} is too long: split it",
                    param="inputs",
                )


class DecodeHandler:
    """`/decode`: the text of token ids."""

    family: ClassVar[None] = None
    input_field: ClassVar[str] = "ids"
    example: ClassVar[str] = '{"ids": [101, 7592, 102]}'

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> DecodeRequest:
        """Check a body; unknown fields are ignored."""
        sequences, is_batch = self._parse_ids(body)
        return DecodeRequest(
            sequences=sequences,
            skip_special_tokens=fields.flag(body, "skip_special_tokens", default=True),
            size=RequestSize(len(sequences), 0, is_batch),
        )

    async def answer(self, request: DecodeRequest) -> Answer:
        """Turn the ids into texts."""
        texts = await self._state.pipeline.decode(
            request.sequences, skip_special_tokens=request.skip_special_tokens
        )
        return Answer(texts, usage=None)

    def _parse_ids(self, body: dict[str, Any]) -> tuple[list[list[int]], bool]:
        value = fields.required(body, "ids", hint=f"send {self.example}")
        if not isinstance(value, list):
            raise fields.wrong_type("ids", value, "a list of token ids, or a list of those")
        if not value:
            raise EmptyInputError(
                "`ids` cannot be empty", hint="`ids` is an empty list", param="ids"
            )
        if not isinstance(value[0], list):
            fields.check_ids(value, "ids", "ids", takes_texts=False)
            return [value], False
        fields.check_batch_size(len(value), self._state.options.max_client_batch_size, "ids")
        for index, ids in enumerate(value):
            if not isinstance(ids, list):
                raise fields.wrong_type("ids", ids, "a list of token ids", place=f"ids[{index}]")
            fields.check_ids(ids, f"ids[{index}]", "ids", takes_texts=False)
        return value, True


def byte_offsets(text: str, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn offsets in code points into offsets in the bytes of the text's UTF-8; any shape."""
    if text.isascii():
        return offsets
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + sum((code_points >= first).astype(np.int64) for first in _WIDER_FROM)
    starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(widths)])
    return starts[offsets]


def _describe_all(texts: Sequence[TokenizedText]) -> list[list[dict[str, Any]]]:
    return [_describe(text) for text in texts]


def _describe(tokenized: TokenizedText) -> list[dict[str, Any]]:
    spans = zip(tokenized.offsets, byte_offsets(tokenized.text, tokenized.offsets), strict=True)
    rows = zip(tokenized.ids, tokenized.tokens, tokenized.is_special, spans, strict=True)
    return [
        _token(int(token_id), token)
        if is_special
        else _token(int(token_id), tokenized.text[span[0] : span[1]], byte_span)
        for token_id, token, is_special, (span, byte_span) in rows
    ]


def _token(token_id: int, text: str, byte_span: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Describe one token; without a span it is a special one that stands for no text."""
    start, stop = (None, None) if byte_span is None else map(int, byte_span)
    return {
        "id": token_id,
        "text": text,
        "special": byte_span is None,
        "start": start,
        "stop": stop,
    }
