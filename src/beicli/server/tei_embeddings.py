"""`/embed`, `/embed_all` and `/similarity` in text-embeddings-inference's shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from beicli.engine.batch import Float32
from beicli.pipeline.tokenizer import TextOrIds, Truncation
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer
from beicli.server.prompts import PromptChoice, parse_prompt_choice
from beicli.server.vectors import (
    RAW_MEDIA_TYPE,
    EncodingFormat,
    VectorForm,
    base64_rows,
    little_endian,
    metadata_header,
    parse_vector_form,
    shape_metadata,
)

_HINT = 'name the texts to embed, such as {"inputs": ["one text", "another"]}'


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the routes for embeddings have in common."""

    inputs: Sequence[TextOrIds]
    prompt: PromptChoice
    truncation: Truncation
    size: RequestSize


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A body of `/embed` that has been checked."""

    common: Inputs
    normalize: bool
    dimensions: int | None
    form: VectorForm

    @property
    def size(self) -> RequestSize:
        return self.common.size


@dataclass(frozen=True, slots=True)
class EmbedAllRequest:
    """A body of `/embed_all` that has been checked."""

    common: Inputs

    @property
    def size(self) -> RequestSize:
        return self.common.size


@dataclass(frozen=True, slots=True)
class SimilarityRequest:
    """A body of `/similarity` that has been checked; texts: the source, then the sentences."""

    texts: list[str]
    prompt: PromptChoice
    truncation: Truncation
    size: RequestSize


class EmbedHandler:
    """`/embed`: a list of vectors, for a single input too.

    It takes vLLM's formats as `/v1/embeddings` does; the header `metadata` holds the shape alone.
    """

    family: ClassVar[Family] = "embed"
    input_field: ClassVar[str] = "inputs"
    example: ClassVar[str] = '{"inputs": "some text"}'

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> EmbedRequest:
        """Check a body; unknown fields are ignored."""
        return EmbedRequest(
            common=_parse_inputs(body, self._state),
            normalize=fields.flag(body, "normalize", default=True),
            dimensions=fields.optional(
                body, "dimensions", int, "an integer", hint="leave it out for the model's own size"
            ),
            form=parse_vector_form(body),
        )

    async def answer(self, request: EmbedRequest) -> Answer:
        """Embed the inputs."""
        pipeline, common = self._state.pipeline, request.common
        result = await pipeline.embed(
            common.inputs,
            dimensions=request.dimensions,
            normalize=request.normalize,
            prompt=common.prompt.find(pipeline),
            truncation=common.truncation,
        )
        vectors, form = result.embeddings, request.form
        if form.is_raw:
            rows = little_endian(vectors, form.dtype)
            is_bare = form.encoding_format is EncodingFormat.BYTES_ONLY
            return Answer(
                rows.tobytes(),
                result.usage,
                media_type=RAW_MEDIA_TYPE,
                headers={} if is_bare else metadata_header(shape_metadata(rows, form.dtype)),
            )
        if form.encoding_format is EncodingFormat.BASE64:
            encoded = [row.decode("ascii") for row in base64_rows(vectors, form.dtype)]
            return Answer(encoded, result.usage)
        return Answer(np.ascontiguousarray(vectors), result.usage)


class EmbedAllHandler:
    """`/embed_all`: the vectors of all tokens of each input, as they leave the model."""

    family: ClassVar[Family] = "embed"
    input_field: ClassVar[str] = "inputs"
    example: ClassVar[str] = '{"inputs": "some text"}'

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> EmbedAllRequest:
        """Check a body; unknown fields are ignored."""
        return EmbedAllRequest(_parse_inputs(body, self._state))

    async def answer(self, request: EmbedAllRequest) -> Answer:
        """Embed the tokens of the inputs, special ones included."""
        pipeline, common = self._state.pipeline, request.common
        result = await pipeline.embed_tokens(
            common.inputs,
            prompt=common.prompt.find(pipeline),
            truncation=common.truncation,
        )
        return Answer([np.ascontiguousarray(rows) for rows in result.embeddings], result.usage)


class SimilarityHandler:
    """`/similarity`: the cosine of a source sentence with each of some others."""

    family: ClassVar[Family] = "embed"
    input_field: ClassVar[str] = "inputs"
    example: ClassVar[str] = '{"inputs": {"source_sentence": "a text", "sentences": ["another"]}}'

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> SimilarityRequest:
        """Check a body; unknown fields are ignored."""
        inputs = _parse_object(body, "inputs", hint=f"send {self.example}")
        parameters = fields.optional(body, "parameters", dict, "an object") or {}
        source, sentences = self._parse_texts(inputs)
        texts = [source, *sentences]
        return SimilarityRequest(
            texts=texts,
            prompt=parse_prompt_choice(parameters),
            truncation=_parse_truncation(parameters, self._state),
            size=RequestSize(len(texts), sum(map(len, texts)), is_batch=True),
        )

    async def answer(self, request: SimilarityRequest) -> Answer:
        """Embed source and sentences in one go."""
        pipeline = self._state.pipeline
        result = await pipeline.embed(
            request.texts, prompt=request.prompt.find(pipeline), truncation=request.truncation
        )
        return Answer(cosines(result.embeddings), result.usage)

    def _parse_texts(self, inputs: dict[str, Any]) -> tuple[str, list[str]]:
        hint = f"send {self.example}"
        source = fields.text(inputs, "inputs.source_sentence", hint=hint)
        limit = self._state.options.max_client_batch_size
        sentences = inputs.get("inputs.sentences")
        if isinstance(sentences, list):
            # The source is computed too.
            fields.check_batch_size(1 + len(sentences), limit, "inputs")
        return source, fields.texts(inputs, "inputs.sentences", max_batch_size=limit, hint=hint)


def cosines(embeddings: Float32) -> Float32:
    """Return the cosine of the first row with each of the others.

    embeddings: [num_vectors, dimension], of unit length; returns [num_vectors - 1].
    """
    # Rounding makes 1.0000001 of equal vectors, of which callers may take the arc cosine.
    products: Float32 = embeddings[1:] @ embeddings[0]
    return np.clip(products, -1, 1)


def _parse_inputs(body: dict[str, Any], state: ServerState) -> Inputs:
    inputs, is_batch = fields.inputs(
        body, "inputs", max_batch_size=state.options.max_client_batch_size, hint=_HINT
    )
    return Inputs(
        inputs=inputs,
        prompt=parse_prompt_choice(body),
        truncation=_parse_truncation(body, state),
        size=RequestSize(len(inputs), fields.num_characters(inputs), is_batch),
    )


def _parse_truncation(body: dict[str, Any], state: ServerState) -> Truncation:
    return fields.truncation(body, default=state.options.on_too_long == "truncate")


def _parse_object(body: dict[str, Any], name: str, *, hint: str) -> dict[str, Any]:
    """Return the fields of an object in a body, named as a message should name them."""
    value = fields.required(body, name, hint=hint)
    if not isinstance(value, dict):
        raise fields.wrong_type(name, value, "an object", hint=hint)
    return {f"{name}.{key}": item for key, item in value.items()}
