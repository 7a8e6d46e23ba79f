"""`/v1/embeddings` in OpenAI's shape, assembled by hand: this is the hot path.

A vector never becomes Python floats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson

from beicli.engine.batch import Float32
from beicli.pipeline.tokenizer import TextOrIds, Truncation
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer
from beicli.server.prompts import PromptChoice, parse_prompt_choice
from beicli.server.vectors import (
    AS_NUMBERS,
    RAW_MEDIA_TYPE,
    EncodingFormat,
    VectorForm,
    base64_rows,
    little_endian,
    metadata_header,
    parse_vector_form,
    row_metadata,
    shape_metadata,
)


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A body that has been checked."""

    inputs: Sequence[TextOrIds]
    dimensions: int | None
    form: VectorForm
    prompt: PromptChoice
    truncation: Truncation
    size: RequestSize


class EmbeddingsHandler:
    """`/v1/embeddings` and `/embeddings`.

    Beyond OpenAI's fields it takes `prompt_name` or `input_type`, `truncate` and
    `truncation_direction`, and vLLM's formats; see `vectors.py`.
    """

    family: ClassVar[Family] = "embed"
    input_field: ClassVar[str] = "input"
    example: ClassVar[str] = '{"input": "some text"}'

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._truncates = state.options.on_too_long == "truncate"

    def parse(self, body: dict[str, Any]) -> EmbeddingsRequest:
        """Check a body; unknown fields are ignored; `model` was looked at before, if it decides."""
        fields.optional(body, "model", str, "a string")
        inputs, is_batch = fields.inputs(
            body,
            "input",
            max_batch_size=self._state.options.max_client_batch_size,
            hint=_hint_for_missing_input(body),
        )
        return EmbeddingsRequest(
            inputs=inputs,
            dimensions=fields.optional(
                body, "dimensions", int, "an integer", hint="leave it out for the model's own size"
            ),
            form=parse_vector_form(body),
            prompt=parse_prompt_choice(body),
            truncation=fields.truncation(body, default=self._truncates),
            size=RequestSize(len(inputs), fields.num_characters(inputs), is_batch),
        )

    async def answer(self, request: EmbeddingsRequest) -> Answer:
        """Embed the inputs."""
        pipeline = self._state.pipeline
        result = await pipeline.embed(
            request.inputs,
            dimensions=request.dimensions,
            prompt=request.prompt.find(pipeline),
            truncation=request.truncation,
        )
        response = Embeddings(
            result.embeddings,
            model=self._state.model_name,
            num_tokens=result.usage.num_tokens,
            form=request.form,
        )
        if request.form.is_raw:
            body, headers = response.to_bytes()
            return Answer(body, result.usage, media_type=RAW_MEDIA_TYPE, headers=headers)
        return Answer(response.to_object, result.usage, to_json=response.to_json)


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """A `CreateEmbeddingResponse`; vectors: [num_inputs, dimensions]."""

    vectors: Float32
    model: str
    num_tokens: int
    form: VectorForm = AS_NUMBERS

    def to_json(self) -> bytes:
        """Write it as JSON."""
        is_base64 = self.form.encoding_format is EncodingFormat.BASE64
        usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (
            self.num_tokens,
            self.num_tokens,
        )
        return b'{"object":"list","data":%b,"model":%b,%b}' % (
            self._base64_json() if is_base64 else self._float_json(),
            orjson.dumps(self.model),
            usage,
        )

    def to_object(self) -> dict[str, Any]:
        """Return it as plain values and arrays."""
        return {
            "object": "list",
            "data": self._items(),
            "model": self.model,
            "usage": self._usage(),
        }

    def to_bytes(self) -> tuple[bytes, dict[str, str]]:
        """Return the rows as bytes, and the headers that go with them.

        vLLM's `metadata`, with the shape of the whole beside its rows; headers are ASCII.
        """
        dtype = self.form.dtype
        rows = little_endian(self.vectors, dtype)
        if self.form.encoding_format is EncodingFormat.BYTES_ONLY:
            return rows.tobytes(), {}
        metadata = {
            "model": self.model,
            "data": row_metadata(rows, dtype),
            "usage": self._usage(),
            **shape_metadata(rows, dtype),
        }
        return rows.tobytes(), metadata_header(metadata)

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": self.num_tokens, "total_tokens": self.num_tokens}

    def _items(self) -> list[dict[str, Any]]:
        rows: Sequence[object]
        if self.form.encoding_format is EncodingFormat.BASE64:
            rows = [row.decode("ascii") for row in base64_rows(self.vectors, self.form.dtype)]
        else:
            rows = list(np.ascontiguousarray(self.vectors))
        return [
            {"object": "embedding", "embedding": row, "index": index}
            for index, row in enumerate(rows)
        ]

    def _float_json(self) -> bytes:
        return orjson.dumps(self._items(), option=orjson.OPT_SERIALIZE_NUMPY)

    def _base64_json(self) -> bytes:
        items = [
            b'{"object":"embedding","embedding":"%b","index":%d}' % (row, index)
            for index, row in enumerate(base64_rows(self.vectors, self.form.dtype))
        ]
        return b"[%b]" % b",".join(items)


def _hint_for_missing_input(body: dict[str, Any]) -> str:
    if "inputs" in body:
        return "`inputs` was given; OpenAI's API, which this route speaks, calls it `input`"
    return 'name the texts to embed, such as {"input": ["one text", "another"]}'
