"""`/predict_tokens` in Baseten's shape: the named entities of texts, or the labels of tokens."""

from dataclasses import dataclass
from typing import Any, ClassVar

from beicli.errors import EmptyInputError
from beicli.pipeline.entities import AggregationStrategy
from beicli.pipeline.tokenizer import Truncation
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer

_EXAMPLE = '{"inputs": [["one text"], ["another"]]}'


@dataclass(frozen=True, slots=True)
class PredictTokensRequest:
    """A body that has been checked."""

    texts: list[str]
    aggregation_strategy: AggregationStrategy
    raw_scores: bool
    truncation: Truncation
    size: RequestSize


class PredictTokensHandler:
    """`/predict_tokens`: a list for each text, also if there is only one."""

    family: ClassVar[Family] = "predict"
    input_field: ClassVar[str] = "inputs"
    example: ClassVar[str] = _EXAMPLE

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> PredictTokensRequest:
        """Check a body; unknown fields are ignored."""
        options = self._state.options
        texts = _parse_texts(body)
        fields.check_batch_size(len(texts), options.max_client_batch_size, "inputs")
        return PredictTokensRequest(
            texts=texts,
            aggregation_strategy=fields.choice(
                body, "aggregation_strategy", AggregationStrategy, default=AggregationStrategy.NONE
            ),
            raw_scores=fields.flag(body, "raw_scores", default=False),
            truncation=fields.truncation(body, default=options.on_too_long == "truncate"),
            size=RequestSize(
                len(texts), sum(map(len, texts)), is_batch=isinstance(body["inputs"], list)
            ),
        )

    async def answer(self, request: PredictTokensRequest) -> Answer:
        """Find the entities of the texts."""
        result = await self._state.pipeline.predict_tokens(
            request.texts,
            aggregation_strategy=request.aggregation_strategy,
            raw_scores=request.raw_scores,
            truncation=request.truncation,
        )
        content = [
            [
                {
                    "token": entity.token,
                    "token_id": entity.token_id,
                    "start": entity.start,
                    "end": entity.end,
                    "results": entity.scores,
                }
                for entity in entities
            ]
            for entities in result.entities
        ]
        return Answer(content, result.usage)


def _parse_texts(body: dict[str, Any]) -> list[str]:
    """Return the texts of a text, a list, or lists in a list; two texts are never a pair here."""
    value = fields.required(body, "inputs", hint=f"name the texts to read: {_EXAMPLE}")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise fields.wrong_type("inputs", value, "a text or a list", hint=f"send {_EXAMPLE}")
    if not value:
        raise _empty("inputs")
    texts: list[str] = []
    for index, item in enumerate(value):
        if isinstance(item, str):
            texts.append(item)
        else:
            texts.extend(_parse_list(item, f"inputs[{index}]"))
    return texts


def _parse_list(item: Any, place: str) -> list[str]:
    if not isinstance(item, list):
        raise fields.wrong_type("inputs", item, "a text or a list of texts", place=place)
    if not item:
        raise _empty(place)
    for index, text in enumerate(item):
        if not isinstance(text, str):
            raise fields.wrong_type("inputs", text, "a text", place=f"{place}[{index}]")
    return item


def _empty(place: str) -> EmptyInputError:
    return EmptyInputError(
        "`inputs` cannot be empty", hint=f"`{place}` is an empty list", param="inputs"
    )
