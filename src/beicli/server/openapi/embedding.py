"""The routes of embedding models, sparse ones included, except Cohere's."""

from dataclasses import replace

from beicli.model.spec import Task
from beicli.server.openapi.operation import (
    INFERENCE_ERRORS,
    RAW,
    Example,
    JsonSchema,
    Operation,
    Served,
    negotiated,
)
from beicli.server.openapi.responses import INFERENCE_HEADERS, INFERENCE_PARAMETERS
from beicli.server.openapi.schemas import (
    COUNT,
    MODEL,
    NUMBER,
    STRING,
    array,
    body,
    choice,
    described,
    flag,
    not_both,
    prompts,
    record,
    reference,
    truncation,
)
from beicli.server.vectors import EmbedDtype, EncodingFormat, Endianness

_TAG = "Embeddings"
_EMBEDDING = frozenset({Task.EMBEDDING})
_SPARSE = frozenset({Task.SPARSE_EMBEDDING})
_ONE_PROMPT = not_both("prompt_name", "input_type")


def embedding_operations(served: Served) -> list[Operation]:
    """Describe the routes that turn texts into vectors, except Cohere's."""
    openai = _openai(served)
    return [
        openai,
        replace(
            openai,
            path="/embeddings",
            summary="The same as /v1/embeddings",
            description="An older address of `/v1/embeddings`.",
            same_as="/v1/embeddings",
        ),
        _embed(served),
        _embed_all(served),
        _similarity(served),
        _embed_sparse(served),
    ]


def _openai(served: Served) -> Operation:
    return Operation(
        method="post",
        path="/v1/embeddings",
        tag=_TAG,
        summary="Embed texts, in OpenAI's shape",
        description=(
            "Answers one vector of unit length for each input, in their order. Beyond OpenAI's "
            "fields it takes prompts, truncation and vLLM's formats. With `encoding_format` "
            "`bytes` or `bytes_only` the body is the numbers and nothing else."
        ),
        tasks=_EMBEDDING,
        request={
            **body(
                {
                    "input": reference("Inputs"),
                    "model": MODEL,
                    "dimensions": dimensions(served),
                    **_form(),
                    **prompts(served),
                    **truncation(served),
                },
                required=["input"],
            ),
            **_ONE_PROMPT,
        },
        answer_description="The vectors, in the order of the inputs.",
        content={**negotiated(_openai_answer(served)), RAW: {}},
        headers=(*INFERENCE_HEADERS, "metadata"),
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=_openai_examples(),
    )


def _openai_answer(served: Served) -> JsonSchema:
    item = record(
        {
            "object": {"const": "embedding"},
            "embedding": {"anyOf": [vector(served), STRING]},
            "index": COUNT,
        }
    )
    return record(
        {
            "object": {"const": "list"},
            "data": array(item, min_items=1),
            "model": described(STRING, "What this server calls its model."),
            "usage": record(
                {
                    "prompt_tokens": described(COUNT, "Tokens computed, special ones included."),
                    "total_tokens": COUNT,
                }
            ),
        }
    )


def _openai_examples() -> tuple[Example, ...]:
    usage = {"prompt_tokens": 12, "total_tokens": 12}

    def answer(*embeddings: object) -> JsonSchema:
        data = [
            {"object": "embedding", "embedding": embedding, "index": index}
            for index, embedding in enumerate(embeddings)
        ]
        return {"object": "list", "data": data, "model": "all-minilm-l6-v2", "usage": usage}

    return (
        Example(
            "batch",
            "Two texts; two dimensions, to keep the answer short",
            {"input": ["Which way to the station?", "Turn left."], "dimensions": 2},
            answer([0.8944272, -0.4472136], [0.6, 0.8]),
        ),
        Example(
            "base64",
            "As the `openai` package asks for it",
            {"input": "Turn left.", "model": "any", "encoding_format": "base64", "dimensions": 2},
            answer("mpkZP83MTD8="),
        ),
        Example(
            "query",
            "With the prompt the model has for queries, and overlong texts refused",
            {"input": "the station", "input_type": "query", "truncate": False, "dimensions": 2},
            answer([0.8, -0.6]),
        ),
    )


def _embed(served: Served) -> Operation:
    return Operation(
        method="post",
        path="/embed",
        tag=_TAG,
        summary="Embed texts, in the shape of text-embeddings-inference",
        description=(
            "Answers a list of vectors, for a single input too. `POST /` and `/invocations` lead "
            "here when the model embeds."
        ),
        tasks=_EMBEDDING,
        request={
            **body(
                {
                    "inputs": reference("Inputs"),
                    "normalize": flag("Scale each vector to unit length.", default=True),
                    "dimensions": dimensions(served),
                    **_form(),
                    **prompts(served),
                    **truncation(served),
                },
                required=["inputs"],
            ),
            **_ONE_PROMPT,
        },
        answer_description="The vectors, in the order of the inputs.",
        content={
            **negotiated(array({"anyOf": [vector(served), STRING]}, min_items=1)),
            RAW: {},
        },
        headers=(*INFERENCE_HEADERS, "metadata"),
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=(
            Example(
                "batch",
                "A text and a list of token ids",
                {"inputs": ["Turn left.", [101, 2735, 2187, 102]], "dimensions": 2},
                [[0.6, 0.8], [0.8, -0.6]],
            ),
        ),
    )


def _embed_all(served: Served) -> Operation:
    return Operation(
        method="post",
        path="/embed_all",
        tag=_TAG,
        summary="Embed every token of texts",
        description=(
            "Answers the hidden state of every token, special ones included: before pooling, and "
            "not scaled to unit length."
        ),
        tasks=_EMBEDDING,
        request={
            **body(
                {"inputs": reference("Inputs"), **prompts(served), **truncation(served)},
                required=["inputs"],
            ),
            **_ONE_PROMPT,
        },
        answer_description="For each input a list of vectors, one a token.",
        content=negotiated(array(array(array(NUMBER, min_items=1), min_items=1), min_items=1)),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=(
            Example(
                "text",
                "One text of two tokens between two special ones",
                {"inputs": "Turn left"},
                [[[0.21, -1.3], [0.07, 0.88], [-0.4, 0.51], [0.19, -1.1]]],
            ),
        ),
    )


def _similarity(served: Served) -> Operation:
    # The source sentence is computed too.
    max_sentences = max(served.options.max_client_batch_size - 1, 1)
    inputs = body(
        {
            "source_sentence": reference("Text"),
            "sentences": array(reference("Text"), min_items=1, max_items=max_sentences),
        },
        required=["source_sentence", "sentences"],
    )
    parameters = {
        "type": ["object", "null"],
        "properties": {**prompts(served), **truncation(served)},
        **_ONE_PROMPT,
    }
    return Operation(
        method="post",
        path="/similarity",
        tag=_TAG,
        summary="Compare a sentence with others",
        description="Answers the cosine of the source sentence with each of the others.",
        tasks=_EMBEDDING,
        request=body({"inputs": inputs, "parameters": parameters}, required=["inputs"]),
        answer_description="One cosine a sentence, in their order.",
        content=negotiated(array({"type": "number", "minimum": -1, "maximum": 1}, min_items=1)),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=(
            Example(
                "sentences",
                "One sentence with two others",
                {
                    "inputs": {
                        "source_sentence": "Turn left at the station.",
                        "sentences": ["Go left there.", "The train is late."],
                    },
                    "parameters": {"truncate": True},
                },
                [0.71, 0.42],
            ),
        ),
    )


def _embed_sparse(served: Served) -> Operation:
    entry = record({"index": reference("TokenId"), "value": NUMBER})
    return Operation(
        method="post",
        path="/embed_sparse",
        tag=_TAG,
        summary="Weigh the words of texts",
        description=(
            "Answers a sparse vector over the vocabulary for each input: the entries that are not "
            "zero, by ascending index."
        ),
        tasks=_SPARSE,
        request={
            **body(
                {"inputs": reference("Inputs"), **prompts(served), **truncation(served)},
                required=["inputs"],
            ),
            **_ONE_PROMPT,
        },
        answer_description="One sparse vector an input.",
        content=negotiated(array(array(entry), min_items=1)),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=(
            Example(
                "text",
                "One text",
                {"inputs": "Turn left"},
                [[{"index": 2187, "value": 1.94}, {"index": 2735, "value": 2.31}]],
            ),
        ),
    )


def dimensions(served: Served) -> JsonSchema:
    """Return the field that shortens vectors."""
    return described(
        {"type": ["integer", "null"], "minimum": 1, "maximum": _full_dimension(served)},
        "Keep the first so many numbers, and scale back to unit length.",
    )


def vector(served: Served) -> JsonSchema:
    """Return the schema of a vector of numbers."""
    return array(NUMBER, min_items=1, max_items=_full_dimension(served))


def _full_dimension(served: Served) -> int:
    model = served.model
    # Other models have no embeddings; what theirs would have is the size of their hidden states.
    return model.embedding_dimension if model.task is Task.EMBEDDING else model.hidden_size


def _form() -> dict[str, JsonSchema]:
    return {
        "encoding_format": choice(
            "How numbers are written; base64 and bytes hold them in little-endian order.",
            EncodingFormat,
            default=EncodingFormat.FLOAT,
        ),
        "embed_dtype": choice(
            "What the numbers in base64 and bytes are.", EmbedDtype, default=EmbedDtype.FLOAT32
        ),
        "endianness": choice(
            "Order of the bytes; both are the same here.", Endianness, default=Endianness.LITTLE
        ),
    }
