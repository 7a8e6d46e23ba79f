"""`/predict` in text-embeddings-inference's shape: the score of every label, best first.

The shape of `inputs` decides what is asked: two texts in one flat list are a pair.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from beicli.errors import RequestError
from beicli.pipeline.results import PredictionResult
from beicli.pipeline.tokenizer import TextPair, Truncation
from beicli.server import fields
from beicli.server.inference import ServerState
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer

_EXAMPLE = '{"inputs": [["one text"], ["another"]]}'
_WANTED = (
    "expected a string, a pair of strings [string, string] or a batch of mixed strings and pairs "
    "[[string], [string, string], ...]"
)
_FLAT_HINT = 'a flat list is one text or one pair; send several texts as [["a"], ["b"]]'
_NESTED_HINT = 'in a batch every text stands in a list of its own, as in [["a"], ["b"]]'


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A body that has been checked; `size.is_batch` tells the shape of the answer."""

    inputs: list[str | TextPair]
    raw_scores: bool
    truncation: Truncation
    size: RequestSize


class PredictHandler:
    """`/predict`."""

    family: ClassVar[Family] = "predict"
    input_field: ClassVar[str] = "inputs"
    example: ClassVar[str] = _EXAMPLE

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def parse(self, body: dict[str, Any]) -> PredictRequest:
        """Check a body; unknown fields are ignored."""
        options = self._state.options
        inputs, is_batch = _parse_inputs(body, max_batch_size=options.max_client_batch_size)
        num_characters = sum(
            len(item) if isinstance(item, str) else sum(map(len, item)) for item in inputs
        )
        return PredictRequest(
            inputs=inputs,
            raw_scores=fields.flag(body, "raw_scores", default=False),
            truncation=fields.truncation(body, default=options.on_too_long == "truncate"),
            size=RequestSize(len(inputs), num_characters, is_batch),
        )

    async def answer(self, request: PredictRequest) -> Answer:
        """Classify the inputs."""
        pipeline = self._state.pipeline
        result = await pipeline.predict(
            request.inputs, raw_scores=request.raw_scores, truncation=request.truncation
        )
        predictions = _rank_labels(result, pipeline.model.labels)
        return Answer(predictions if request.size.is_batch else predictions[0], result.usage)


def _rank_labels(result: PredictionResult, labels: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Return each input's labels with their scores, best first, equal ones in the model's order."""
    best_first = np.argsort(-result.scores, axis=1, kind="stable")
    ranked = np.take_along_axis(result.scores, best_first, axis=1)
    # Scores stay float32: written out, they have no digits that mean nothing.
    return [
        [
            {"score": score, "label": labels[label]}
            for score, label in zip(scores, order, strict=True)
        ]
        for scores, order in zip(ranked, best_first.tolist(), strict=True)
    ]


def _parse_inputs(
    body: dict[str, Any], *, max_batch_size: int
) -> tuple[list[str | TextPair], bool]:
    """Return texts and pairs, and whether they came as a batch."""
    value = fields.required(body, "inputs", hint=f"name the texts to classify: {_EXAMPLE}")
    if isinstance(value, str):
        return [value], False
    if not isinstance(value, list):
        raise fields.wrong_type("inputs", value, "a text or a list", hint=f"send {_EXAMPLE}")
    if not value or isinstance(value[0], str):
        return [_parse_item(value, "inputs", _FLAT_HINT)], False
    fields.check_batch_size(len(value), max_batch_size, "inputs")
    return [
        _parse_item(item, f"inputs[{index}]", _NESTED_HINT) for index, item in enumerate(value)
    ], True


def _parse_item(item: Any, place: str, hint: str) -> str | TextPair:
    """Return a list of one text as the text, and one of two texts as a pair."""
    if not isinstance(item, list):
        raise fields.wrong_type("inputs", item, "a list of one text or two", place=place, hint=hint)
    if len(item) not in {1, 2}:
        raise RequestError(
            f"invalid length {len(item)}, {_WANTED}",
            hint=f"`{place}` is {_list_of(item)}; {hint}",
            param="inputs",
        )
    for index, text in enumerate(item):
        if not isinstance(text, str):
            raise fields.wrong_type("inputs", text, "a text", place=f"{place}[{index}]", hint=hint)
    return item[0] if len(item) == 1 else (item[0], item[1])


def _list_of(items: list[Any]) -> str:
    return f"a list of {len(items)}" if items else "an empty list"
