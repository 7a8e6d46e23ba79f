"""`/rerank` in text-embeddings-inference's shape: how relevant each text is for a query."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from beicli.engine.batch import Float32
from beicli.pipeline.tokenizer import Truncation
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer

_EXAMPLE = '{"query": "a question", "texts": ["one text", "another"]}'


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A body that has been checked."""

    query: str
    texts: list[str]
    raw_scores: bool
    return_text: bool
    truncation: Truncation
    size: RequestSize


class RerankHandler:
    """`/rerank`, in the order of the texts or best first, as the server's options say."""

    family: ClassVar[Family] = "predict"
    input_field: ClassVar[str] = "texts"
    example: ClassVar[str] = _EXAMPLE

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> RerankRequest:
        """Check a body; unknown fields are ignored."""
        options = self._state.options
        query = fields.text(body, "query", hint=_hint_for_missing_query(body))
        texts = fields.texts(
            body,
            "texts",
            max_batch_size=options.max_client_batch_size,
            hint=_hint_for_missing_texts(body),
        )
        return RerankRequest(
            query=query,
            texts=texts,
            raw_scores=fields.flag(body, "raw_scores", default=False),
            return_text=fields.flag(body, "return_text", default=False),
            truncation=fields.truncation(body, default=options.on_too_long == "truncate"),
            size=RequestSize(len(texts), len(query) + sum(map(len, texts)), is_batch=True),
        )

    async def answer(self, request: RerankRequest) -> Answer:
        """Score the texts."""
        result = await self._state.pipeline.rerank(
            request.query,
            request.texts,
            raw_scores=request.raw_scores,
            truncation=request.truncation,
        )
        is_sorted = self._state.options.rerank_order == "score"
        order = best_first(result.scores) if is_sorted else np.arange(len(result.scores))
        # Scores stay float32: written out, they have no digits that mean nothing.
        ranks = zip(order.tolist(), result.scores[order], strict=True)
        if request.return_text:
            texts = request.texts
            return Answer(
                [{"index": index, "score": score, "text": texts[index]} for index, score in ranks],
                result.usage,
            )
        return Answer([{"index": index, "score": score} for index, score in ranks], result.usage)


def best_first(scores: Float32) -> NDArray[np.int64]:
    """Return the places of `scores`, [num_texts], from high to low; equal ones keep their order."""
    order: NDArray[np.int64] = np.argsort(-scores, kind="stable")
    return order


def _hint_for_missing_query(body: dict[str, Any]) -> str:
    if "inputs" in body:
        return f"`inputs` was given; this route ranks texts for a query: {_EXAMPLE}"
    return f"send what the texts are to be ranked for: {_EXAMPLE}"


def _hint_for_missing_texts(body: dict[str, Any]) -> str:
    if "documents" in body:
        return "`documents` was given; this route calls them `texts`, `/v2/rerank` `documents`"
    return f"name the texts to rank: {_EXAMPLE}"
