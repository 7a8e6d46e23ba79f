"""`/vertex`: several requests to one route in one body, as Google's platform sends them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson
import ormsgpack

from beicli.errors import EmptyInputError, RequestError
from beicli.pipeline.results import Timing, Usage
from beicli.server import fields
from beicli.server.inference import InferenceHandler, ServerState, SizedRequest
from beicli.server.metrics import Family, RequestSize
from beicli.server.negotiation import Answer


@dataclass(frozen=True, slots=True)
class VertexRequest:
    """Bodies that have been checked, each as a request of its own."""

    instances: Sequence[SizedRequest]
    size: RequestSize


class VertexHandler:
    """Answers `{"instances": [body, …]}` with `{"predictions": [answer, …]}`.

    handler: the route that each instance is a body for.
    """

    input_field: ClassVar[str] = "instances"

    def __init__(self, state: ServerState, handler: InferenceHandler[Any]) -> None:
        self._state = state
        self._handler = handler
        self.family: Family | None = handler.family
        self.example = f'{{"instances": [{handler.example}]}}'

    def parse(self, body: dict[str, Any]) -> VertexRequest:
        """Check each instance; all of them together may hold as many inputs as one request."""
        found = fields.required(body, "instances", hint=f"send {self.example}")
        if not isinstance(found, list):
            raise fields.wrong_type("instances", found, "a list of objects")
        if not found:
            raise EmptyInputError("`instances` cannot be empty", param="instances")
        max_batch_size = self._state.options.max_client_batch_size
        fields.check_batch_size(len(found), max_batch_size, "instances")
        requests = [self._parse_instance(instance, i) for i, instance in enumerate(found)]
        sizes = [request.size for request in requests]
        size = RequestSize(
            num_inputs=sum(size.num_inputs for size in sizes),
            num_characters=sum(size.num_characters for size in sizes),
            is_batch=True,
        )
        fields.check_batch_size(size.num_inputs, max_batch_size, "instances")
        return VertexRequest(requests, size)

    async def answer(self, request: VertexRequest) -> Answer:
        """Ask for all instances at once; one that fails fails the request."""
        tasks = [asyncio.ensure_future(self._handler.answer(one)) for one in request.instances]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        usages = [answer.usage for answer in answers if answer.usage is not None]
        return Answer(
            lambda: {"predictions": [_packed(answer) for answer in answers]},
            _sum_usage(usages),
            to_json=lambda: orjson.dumps({"predictions": [_written(answer) for answer in answers]}),
        )

    def _parse_instance(self, instance: Any, index: int) -> SizedRequest:
        if not isinstance(instance, dict):
            raise fields.wrong_type("instances", instance, "an object", place=f"instances[{index}]")
        try:
            request: SizedRequest = self._handler.parse(instance)
        except RequestError as error:
            error.message = f"instance {index}: {error.message}"
            raise
        return request


def _written(answer: Answer) -> orjson.Fragment:
    if isinstance(answer.content, bytes):
        return orjson.Fragment(_require_json(answer))
    return orjson.Fragment(answer.encode("application/json"))


def _packed(answer: Answer) -> object:
    if isinstance(answer.content, bytes):
        return orjson.loads(_require_json(answer))
    return ormsgpack.Fragment(answer.encode("application/msgpack"))


def _require_json(answer: Answer) -> bytes:
    assert isinstance(answer.content, bytes), "asked of finished answers only"
    if answer.media_type != "application/json":
        raise RequestError(
            f"a prediction cannot be `{answer.media_type}`",
            hint="ask the route itself for bytes, or leave `encoding_format` out here",
        )
    return answer.content


def _sum_usage(usages: Sequence[Usage]) -> Usage:
    """Add up; waiting and computing stay means over the inputs."""
    weights = [len(usage.input_lengths) for usage in usages]

    def mean(values: list[float]) -> float:
        total = sum(value * weight for value, weight in zip(values, weights, strict=True))
        return total / max(sum(weights), 1)

    return Usage(
        num_tokens=sum(usage.num_tokens for usage in usages),
        input_lengths=tuple(length for usage in usages for length in usage.input_lengths),
        num_truncated_inputs=sum(usage.num_truncated_inputs for usage in usages),
        timing=Timing(
            tokenization_s=sum(usage.timing.tokenization_s for usage in usages),
            queue_s=mean([usage.timing.queue_s for usage in usages]),
            inference_s=mean([usage.timing.inference_s for usage in usages]),
        ),
    )
