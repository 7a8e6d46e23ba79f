"""`/v2/embed` in the shape of Cohere's API."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np

from beicli.engine.batch import Float32
from beicli.errors import EmptyInputError, RequestError
from beicli.pipeline.quantize import to_binary, to_int8, to_ubinary, to_uint8
from beicli.pipeline.tokenizer import Truncation, TruncationDirection
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer
from beicli.server.prompts import PromptChoice
from beicli.server.vectors import base64_rows

_EXAMPLE = '{"model": "any", "input_type": "search_document", "texts": ["some text"]}'
_ONLY_TEXTS = "this server embeds texts: send `texts`, or `inputs` with contents of type `text`"


class EmbeddingType(StrEnum):
    """How numbers are written; base64 holds float32, the integers are those of `quantize.py`."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"
    BASE64 = "base64"


class TruncateSide(StrEnum):
    """Which end of an overlong input is cut off, if any."""

    NONE = "none"
    START = "start"
    END = "end"


_WRITERS: Mapping[EmbeddingType, Callable[[Float32], object]] = {
    EmbeddingType.FLOAT: np.ascontiguousarray,
    EmbeddingType.INT8: to_int8,
    EmbeddingType.UINT8: to_uint8,
    EmbeddingType.BINARY: to_binary,
    EmbeddingType.UBINARY: to_ubinary,
    EmbeddingType.BASE64: lambda vectors: [row.decode("ascii") for row in base64_rows(vectors)],
}


@dataclass(frozen=True, slots=True)
class CohereEmbedRequest:
    """A body that has been checked; embedding_types: without repetitions."""

    texts: list[str]
    embedding_types: tuple[EmbeddingType, ...]
    dimensions: int | None
    prompt: PromptChoice
    truncation: Truncation
    size: RequestSize


class CohereEmbedHandler:
    """`/v2/embed`.

    Other than at Cohere, `input_type` may be left out, for the model's default prompt, and there
    may be as many texts as the server takes in any request.
    """

    family: ClassVar[Family] = "embed"
    input_field: ClassVar[str] = "texts"
    example: ClassVar[str] = _EXAMPLE

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> CohereEmbedRequest:
        """Check a body; unknown fields are ignored."""
        texts = self._parse_texts(body)
        self._check_max_tokens(body)
        return CohereEmbedRequest(
            texts=texts,
            embedding_types=_parse_embedding_types(body),
            dimensions=fields.optional(
                body,
                "output_dimension",
                int,
                "an integer",
                hint="leave it out for the model's own size",
            ),
            prompt=PromptChoice(input_type=fields.optional(body, "input_type", str, "a string")),
            truncation=self._parse_truncation(body),
            size=RequestSize(len(texts), sum(map(len, texts)), is_batch=True),
        )

    async def answer(self, request: CohereEmbedRequest) -> Answer:
        """Embed the texts and write the vectors in each of the types."""
        pipeline = self._state.pipeline
        try:
            result = await pipeline.embed(
                request.texts,
                dimensions=request.dimensions,
                prompt=request.prompt.find(pipeline),
                truncation=request.truncation,
            )
        except RequestError as error:
            # The pipeline speaks of the fields as the other routes call them.
            if error.param == "dimensions":
                error.param = "output_dimension"
            if error.hint is not None:
                error.hint = error.hint.replace("`truncate: true`", '`truncate: "END"`')
            raise
        vectors, usage = result.embeddings, result.usage

        def content() -> dict[str, Any]:
            return {
                "response_type": "embeddings_by_type",
                "id": str(uuid.uuid4()),
                "embeddings": {
                    # MessagePack takes no subclasses of str for names.
                    embedding_type.value: _WRITERS[embedding_type](vectors)
                    for embedding_type in request.embedding_types
                },
                "texts": request.texts,
                "meta": {
                    "api_version": {"version": "2"},
                    "billed_units": {"input_tokens": usage.num_tokens},
                },
            }

        return Answer(content, usage)

    def _parse_texts(self, body: dict[str, Any]) -> list[str]:
        if body.get("images") is not None:
            raise RequestError(
                "`images` cannot be embedded by this model", hint=_ONLY_TEXTS, param="images"
            )
        limit = self._state.options.max_client_batch_size
        if body.get("inputs") is None:
            hint = f"send {_EXAMPLE}"
            return fields.texts(body, "texts", max_batch_size=limit, hint=hint)
        if body.get("texts") is not None:
            raise RequestError(
                "`texts` and `inputs` are both given; one of them is wanted", param="inputs"
            )
        return _parse_contents(body["inputs"], max_batch_size=limit)

    def _parse_truncation(self, body: dict[str, Any]) -> Truncation:
        default = (
            TruncateSide.END if self._state.options.on_too_long == "truncate" else TruncateSide.NONE
        )
        side = fields.choice(body, "truncate", TruncateSide, default=default)
        is_start = side is TruncateSide.START
        return Truncation(
            allowed=side is not TruncateSide.NONE,
            direction=TruncationDirection.LEFT if is_start else TruncationDirection.RIGHT,
        )

    def _check_max_tokens(self, body: dict[str, Any]) -> None:
        """Refuse a window smaller than the model's own, which would have to be cut to."""
        max_tokens = fields.optional(body, "max_tokens", int, "an integer")
        window = self._state.pipeline.manifest.limits.max_input_length
        if max_tokens is not None and max_tokens < window:
            raise RequestError(
                f"`max_tokens` is {max_tokens}; inputs are cut to this model's window of {window} "
                "tokens only",
                hint="leave it out, or send shorter texts",
                param="max_tokens",
            )


def _parse_embedding_types(body: dict[str, Any]) -> tuple[EmbeddingType, ...]:
    name = "embedding_types"
    values = fields.optional(body, name, list, "a list of strings") or [EmbeddingType.FLOAT.value]
    types = [
        fields.member(value, EmbeddingType, name, place=f"{name}[{index}]")
        for index, value in enumerate(values)
    ]
    return tuple(dict.fromkeys(types))


def _parse_contents(items: Any, *, max_batch_size: int) -> list[str]:
    """Return the text of each of `inputs`."""
    if not isinstance(items, list):
        raise fields.wrong_type("inputs", items, "a list of objects")
    if not items:
        raise EmptyInputError(
            "`inputs` cannot be empty", hint="`inputs` is an empty list", param="inputs"
        )
    fields.check_batch_size(len(items), max_batch_size, "inputs")
    return [_join_parts(item, f"inputs[{index}]") for index, item in enumerate(items)]


def _join_parts(item: Any, place: str) -> str:
    """Return the text of an input, whose parts follow each other on lines of their own."""
    parts = item.get("content") if isinstance(item, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise RequestError(
            f"`{place}` has no list of contents",
            hint='an input is {"content": [{"type": "text", "text": "some text"}]}',
            param="inputs",
        )
    texts = []
    for index, part in enumerate(parts):
        where = f"{place}.content[{index}]"
        if part.get("type") != "text":
            raise RequestError(f"`{where}` is no text", hint=_ONLY_TEXTS, param="inputs")
        if not isinstance(part.get("text"), str):
            raise fields.wrong_type("inputs", part.get("text"), "a text", place=f"{where}.text")
        texts.append(part["text"])
    return "\n".join(texts)
