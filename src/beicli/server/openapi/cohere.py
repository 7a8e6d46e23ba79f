"""The routes in the shape of Cohere's API: `/v2/embed`, `/v1/rerank` and `/v2/rerank`."""

from dataclasses import replace

from beicli.model.spec import Task
from beicli.server.cohere_embed import EmbeddingType
from beicli.server.openapi.embedding import dimensions, vector
from beicli.server.openapi.operation import (
    INFERENCE_ERRORS,
    Example,
    JsonSchema,
    Operation,
    Served,
    negotiated,
)
from beicli.server.openapi.responses import INFERENCE_HEADERS, INFERENCE_PARAMETERS
from beicli.server.openapi.schemas import (
    COUNT,
    MAX_INTEGER,
    NUMBER,
    STRING,
    array,
    body,
    choice,
    described,
    flag,
    input_type,
    record,
    reference,
    truncation,
)

_TAG = "Cohere"
_IGNORED: JsonSchema = {"description": "Ignored: the server has one model."}
_ID = described(STRING, "A new one for every answer.")
_SIDES = ("NONE", "START", "END", "none", "start", "end")


def cohere_operations(served: Served) -> list[Operation]:
    """Describe the routes of Cohere's API."""
    rerank = _rerank(served)
    newer = replace(
        rerank,
        path="/v2/rerank",
        summary="Rank documents, in the shape of Cohere's second API",
        description="The same as `/v1/rerank`; `meta.api_version` says which it was.",
        examples=(_rerank_example("2"),),
        same_as="/v1/rerank",
    )
    return [_embed(served), rerank, newer]


def _embed(served: Served) -> Operation:
    max_inputs = served.options.max_client_batch_size
    part = body({"type": {"const": "text"}, "text": STRING}, required=["type", "text"])
    # Parts are joined with line breaks, so a text is empty only if its one part is.
    only_part = array(body({"text": reference("Text")}, required=["text"]), max_items=1)
    parts = {**array(part, min_items=1), "anyOf": [{"minItems": 2}, only_part]}
    contents = body({"content": parts}, required=["content"])
    types = {"type": "string", "enum": list(EmbeddingType)}
    return Operation(
        method="post",
        path="/v2/embed",
        tag=_TAG,
        summary="Embed texts, in the shape of Cohere's second API",
        description=(
            "Answers the vectors in each of the `embedding_types`. The texts come as `texts`, or "
            "as `inputs` in parts. Other than at Cohere, `input_type` may be left out."
        ),
        tasks=frozenset({Task.EMBEDDING}),
        request={
            **body(
                {
                    "model": _IGNORED,
                    "texts": _nullable_list(reference("Text"), max_items=max_inputs),
                    "inputs": _nullable_list(contents, max_items=max_inputs),
                    "images": described({"type": "null"}, "Not embedded by this server."),
                    "input_type": input_type(),
                    "embedding_types": described(
                        {**array(types), "type": ["array", "null"]}, "How the numbers are written."
                    ),
                    "output_dimension": dimensions(served),
                    "max_tokens": described(
                        {
                            "type": ["integer", "null"],
                            "minimum": served.limits.max_input_length,
                            "maximum": MAX_INTEGER,
                        },
                        "Inputs are cut to the model's window, and not below.",
                    ),
                    "truncate": choice("Which end of an overlong text is cut off.", _SIDES),
                },
                required=[],
            ),
            "oneOf": [_either("texts", "inputs"), _either("inputs", "texts")],
        },
        answer_description="The vectors by type, each in the order of the texts.",
        content=negotiated(_embed_answer(served)),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=_embed_examples(),
    )


def _nullable_list(items: JsonSchema, *, max_items: int) -> JsonSchema:
    return {**array(items, min_items=1, max_items=max_items), "type": ["array", "null"]}


def _either(given: str, left_out: str) -> JsonSchema:
    """Return what a schema says of two fields of which one is given."""
    properties = {given: {"type": "array"}, left_out: {"type": "null"}}
    return {"required": [given], "properties": properties}


def _embed_answer(served: Served) -> JsonSchema:
    def rows(low: int, high: int) -> JsonSchema:
        number = {"type": "integer", "minimum": low, "maximum": high}
        return array(array(number, min_items=1), min_items=1)

    embeddings = {
        EmbeddingType.FLOAT: array(vector(served), min_items=1),
        EmbeddingType.INT8: rows(-128, 127),
        EmbeddingType.UINT8: rows(0, 255),
        EmbeddingType.BINARY: rows(-128, 127),
        EmbeddingType.UBINARY: rows(0, 255),
        EmbeddingType.BASE64: array(STRING, min_items=1),
    }
    return record(
        {
            "response_type": {"const": "embeddings_by_type"},
            "id": _ID,
            "embeddings": record(
                {name.value: schema for name, schema in embeddings.items()},
                optional=[name.value for name in embeddings],
            ),
            "texts": array(STRING, min_items=1),
            "meta": record(
                {
                    "api_version": record({"version": {"const": "2"}}),
                    "billed_units": record({"input_tokens": COUNT}),
                }
            ),
        }
    )


def _embed_examples() -> tuple[Example, ...]:
    def answer(embeddings: JsonSchema, texts: list[str]) -> JsonSchema:
        return {
            "response_type": "embeddings_by_type",
            "id": "6a0bb1e0-9b7c-4c0e-8a57-0d2f3a1c5b11",
            "embeddings": embeddings,
            "texts": texts,
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 6}},
        }

    return (
        Example(
            "texts",
            "A text as numbers and as small integers",
            {
                "model": "any",
                "input_type": "search_document",
                "texts": ["Turn left."],
                "embedding_types": ["float", "int8"],
                "output_dimension": 2,
            },
            answer({"float": [[0.6, 0.8]], "int8": [[76, 102]]}, ["Turn left."]),
        ),
        Example(
            "contents",
            "A text in parts, which are joined on lines of their own",
            {
                "inputs": [{"content": [{"type": "text", "text": "Turn left."}]}],
                "output_dimension": 2,
                "truncate": "NONE",
            },
            answer({"float": [[0.6, 0.8]]}, ["Turn left."]),
        ),
    )


def _rerank(served: Served) -> Operation:
    document = {"anyOf": [STRING, body({"text": STRING}, required=["text"])]}
    max_inputs = served.options.max_client_batch_size
    at_least_one: JsonSchema = {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": MAX_INTEGER,
    }
    return Operation(
        method="post",
        path="/v1/rerank",
        tag=_TAG,
        summary="Rank documents, in the shape of Cohere's and of Jina's API",
        description="Answers the documents' scores, best first; `index` says which it is.",
        tasks=frozenset({Task.RERANKING}),
        request=body(
            {
                "model": _IGNORED,
                "query": reference("Text"),
                "documents": array(document, min_items=1, max_items=max_inputs),
                "top_n": described(at_least_one, "How many of the best to answer."),
                "return_documents": flag("Repeat the documents in the answer.", default=False),
                "max_tokens_per_doc": described(at_least_one, "Tokens to read of each document."),
                "rank_fields": described(
                    {
                        "type": ["array", "null"],
                        "items": {"const": "text"},
                        "maxItems": 1,
                    },
                    "Of a document that is an object, `text` is read.",
                ),
                **truncation(served),
            },
            required=["query", "documents"],
        ),
        answer_description="The documents' scores, best first.",
        content=negotiated(_rerank_answer()),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=(_rerank_example("1"),),
    )


def _rerank_answer() -> JsonSchema:
    result = record(
        {
            "index": COUNT,
            "relevance_score": NUMBER,
            "document": record({"text": STRING}),
        },
        optional=["document"],
    )
    return record(
        {
            "id": _ID,
            "model": STRING,
            "results": array(result, min_items=1),
            "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT}),
            "meta": record(
                {
                    "api_version": record({"version": {"enum": ["1", "2"]}}),
                    "billed_units": record({"search_units": COUNT}),
                    "tokens": record({"input_tokens": COUNT, "output_tokens": COUNT}),
                }
            ),
        }
    )


def _rerank_example(api_version: str) -> Example:
    documents = ["The soup is cold.", "Turn left, it is ahead."]
    return Example(
        "documents",
        "The better one of two documents",
        {
            "model": "any",
            "query": "Where is the station?",
            "documents": documents,
            "top_n": 1,
            "return_documents": True,
        },
        {
            "id": "b2f0c1de-53d7-4e9a-9a58-8f6f8a4f0a77",
            "model": "bge-reranker-base",
            "results": [{"index": 1, "relevance_score": 0.918, "document": {"text": documents[1]}}],
            "usage": {"prompt_tokens": 31, "total_tokens": 31},
            "meta": {
                "api_version": {"version": api_version},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": 31, "output_tokens": 0},
            },
        },
    )
