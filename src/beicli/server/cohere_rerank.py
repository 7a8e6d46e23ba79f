"""`/v1/rerank` and `/v2/rerank` in the shape of Cohere's and of Jina's API.

One answer has the keys of both: Cohere's clients read `id`, `results` and `meta`, Jina's `model`,
`usage` and `results`.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from beicli.errors import EmptyInputError, RequestError
from beicli.pipeline.results import RerankResult
from beicli.pipeline.tokenizer import Truncation
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer
from beicli.server.rerank import best_first

_EXAMPLE = '{"model": "any", "query": "a question", "documents": ["one text", "another"]}'
_DOCUMENT_WANTED = 'a text or an object such as {"text": "some text"}'

# What Cohere counts as one search.
_DOCUMENTS_A_SEARCH_UNIT = 100


@dataclass(frozen=True, slots=True)
class CohereRerankRequest:
    """A body that has been checked.

    top_n: how many of the best to answer, None for all.
    max_tokens_per_doc: tokens to read of each document, None for all that fit the model's window.
    """

    query: str
    documents: list[str]
    top_n: int | None
    return_documents: bool
    max_tokens_per_doc: int | None
    truncation: Truncation
    size: RequestSize


class CohereRerankHandler:
    """`/v1/rerank` and `/v2/rerank`; api_version: which of them, as the answer names it."""

    family: ClassVar[Family] = "predict"
    input_field: ClassVar[str] = "documents"
    example: ClassVar[str] = _EXAMPLE

    def __init__(self, state: ServerState, *, api_version: str) -> None:
        self._state = state
        self._api_version = api_version

    def parse(self, body: dict[str, Any]) -> CohereRerankRequest:
        """Check a body; unknown fields are ignored."""
        query = fields.text(
            body, "query", hint=f"send what the documents are to be ranked for: {_EXAMPLE}"
        )
        _check_rank_fields(body)
        options = self._state.options
        documents = _parse_documents(body, max_batch_size=options.max_client_batch_size)
        return CohereRerankRequest(
            query=query,
            documents=documents,
            top_n=_positive(body, "top_n", hint="leave it out to get all documents"),
            return_documents=fields.flag(body, "return_documents", default=False),
            max_tokens_per_doc=_positive(
                body, "max_tokens_per_doc", hint="leave it out to use the model's whole window"
            ),
            # Not of these APIs, but what a refusal of long documents tells everyone to send.
            truncation=fields.truncation(body, default=options.on_too_long == "truncate"),
            size=RequestSize(len(documents), len(query) + sum(map(len, documents)), is_batch=True),
        )

    async def answer(self, request: CohereRerankRequest) -> Answer:
        """Score the documents."""
        texts: Sequence[str] = request.documents
        if request.max_tokens_per_doc is not None:
            texts = await self._cut(texts, max_tokens=request.max_tokens_per_doc)
        result = await self._state.pipeline.rerank(
            request.query, texts, truncation=request.truncation
        )
        num_tokens = result.usage.num_tokens
        content = {
            "id": str(uuid.uuid4()),
            "model": self._state.model_name,
            "results": _ranked(request, result),
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            "meta": {
                "api_version": {"version": self._api_version},
                "billed_units": {
                    "search_units": -(-len(request.documents) // _DOCUMENTS_A_SEARCH_UNIT)
                },
                "tokens": {"input_tokens": num_tokens, "output_tokens": 0},
            },
        }
        return Answer(content, result.usage)

    async def _cut(self, texts: Sequence[str], *, max_tokens: int) -> list[str]:
        """Return the first `max_tokens` tokens of each text."""
        tokenized = await self._state.pipeline.tokenize(texts, add_special_tokens=False)
        return [
            text if len(tokens.ids) <= max_tokens else text[: tokens.offsets[max_tokens - 1, 1]]
            for text, tokens in zip(texts, tokenized, strict=True)
        ]


def _ranked(request: CohereRerankRequest, result: RerankResult) -> list[dict[str, Any]]:
    order = best_first(result.scores)[: request.top_n]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": score}
        for index, score in zip(order.tolist(), result.scores[order], strict=True)
    ]
    if request.return_documents:
        for item in results:
            item["document"] = {"text": request.documents[item["index"]]}
    return results


def _parse_documents(body: dict[str, Any], *, max_batch_size: int) -> list[str]:
    value = fields.required(body, "documents", hint=_hint_for_missing_documents(body))
    if not isinstance(value, list):
        raise fields.wrong_type("documents", value, "a list of documents")
    if not value:
        raise EmptyInputError(
            "`documents` cannot be empty", hint="`documents` is an empty list", param="documents"
        )
    fields.check_batch_size(len(value), max_batch_size, "documents")
    return [
        document if isinstance(document, str) else _text_of(document, f"documents[{index}]")
        for index, document in enumerate(value)
    ]


def _text_of(document: Any, place: str) -> str:
    if not isinstance(document, dict):
        raise fields.wrong_type("documents", document, _DOCUMENT_WANTED, place=place)
    if "text" not in document:
        raise RequestError(
            f"`{place}` has no `text`; {_DOCUMENT_WANTED} is wanted",
            hint="of an object `text` is read and nothing else",
            param="documents",
        )
    if not isinstance(document["text"], str):
        raise fields.wrong_type("documents", document["text"], "a text", place=f"{place}.text")
    text: str = document["text"]
    return text


def _check_rank_fields(body: dict[str, Any]) -> None:
    """Refuse what Cohere's first API can be told to read of an object beside its `text`."""
    names = fields.optional(body, "rank_fields", list, "a list of names")
    if names and names != ["text"]:
        raise RequestError(
            "`rank_fields` names something other than `text`, the only field that is read here",
            hint="write what is to be ranked into `text`, and leave `rank_fields` out",
            param="rank_fields",
        )


def _positive(body: dict[str, Any], name: str, *, hint: str) -> int | None:
    value: int | None = fields.optional(body, name, int, "an integer", hint=hint)
    if value is not None and value < 1:
        raise RequestError(f"`{name}` is {value}; 1 or more is wanted", hint=hint, param=name)
    return value


def _hint_for_missing_documents(body: dict[str, Any]) -> str:
    if "texts" in body:
        return "`texts` was given; this route calls them `documents`, `/rerank` calls them `texts`"
    return f"name the texts to rank: {_EXAMPLE}"
