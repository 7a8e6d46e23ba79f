"""What all inference routes share: admission, body, a client that leaves, headers, metrics.

A route itself is a handler of two steps: `parse` turns the fields of the body into a checked
request, `answer` asks the pipeline and says what the answer holds.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from beicli.errors import BeiError, RequestError, WrongTaskError
from beicli.model.routes import describe_model
from beicli.pipeline.pipeline import InferencePipeline
from beicli.pipeline.results import Usage
from beicli.server.canary import Canary
from beicli.server.errors import ClientLeftError, words_for
from beicli.server.exchange import Admission, DisconnectWatch, check_content_type, read_body
from beicli.server.fields import parse_json_object
from beicli.server.key_limits import KeyGates
from beicli.server.metrics import Family, RequestSize, ServerMetrics
from beicli.server.negotiation import Answer, Negotiated, negotiate
from beicli.server.options import ServerOptions
from beicli.server.records import RequestRecord, record_of
from beicli.server.terms import read_terms, within
from beicli.server.timings import SERVER_TIMING, server_timing


@dataclass(frozen=True, slots=True, eq=False)
class ServerState:
    """What the routes share; canary: None where nothing watches the engine's numbers."""

    pipeline: InferencePipeline
    options: ServerOptions
    metrics: ServerMetrics
    admission: Admission
    key_gates: KeyGates = field(default_factory=KeyGates)
    canary: Canary | None = None

    @property
    def model_name(self) -> str:
        """What this server calls its model."""
        return self.options.served_model_name or self.pipeline.manifest.name


class SizedRequest(Protocol):
    """A request that has been checked."""

    @property
    def size(self) -> RequestSize: ...


R = TypeVar("R", bound=SizedRequest)


class InferenceHandler(Protocol[R]):
    """One route. One instance serves all requests.

    family: whose counters it is counted in, None where no model is asked.
    input_field: what this API calls its inputs; example: a body it takes, for hints.
    """

    @property
    def family(self) -> Family | None: ...
    @property
    def input_field(self) -> str: ...
    @property
    def example(self) -> str: ...

    def parse(self, fields: dict[str, Any]) -> R:
        """Check the fields of a body; raises RequestError naming the one that is wrong."""
        ...

    async def answer(self, request: R) -> Answer:
        """Ask the pipeline."""
        ...


class InferenceEndpoint:
    """ASGI endpoint around a handler; its work is cancelled when the client leaves."""

    def __init__(self, state: ServerState, handler: InferenceHandler[Any]) -> None:
        self._state = state
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        record = record_of(scope)
        try:
            terms = read_terms(headers)
            with self._state.admission, self._state.key_gates.of(scope), terms.apply():
                check_content_type(headers)
                if self._handler.family is not None:
                    self._state.pipeline.check_admission(terms)
                async with within(terms.deadline):
                    body = await read_body(
                        headers, receive, max_bytes=self._state.options.max_body_bytes
                    )
                    async with DisconnectWatch(receive):
                        response = await self._respond(body, negotiate(headers), record)
                await response(scope, receive, send)
        except Exception as error:
            self._state.metrics.request_failed(_reason(error))
            raise

    async def _respond(
        self, body: bytes, negotiated: Negotiated, record: RequestRecord
    ) -> Response:
        record.read_at = started_at = time.perf_counter()
        state, handler = self._state, self._handler
        fields = parse_json_object(
            body, example=handler.example, max_characters=state.options.max_input_characters
        )
        request = handler.parse(fields)
        size = request.size
        record.num_inputs = size.num_inputs
        state.metrics.started(handler.family, size)
        answer = await self._answer(request)
        answered_at = time.perf_counter()
        response = await negotiated.respond(answer)
        total_s = time.perf_counter() - started_at
        record.usage, record.total_s = answer.usage, total_s
        record.encode_s = total_s - (answered_at - started_at)
        state.metrics.succeeded(
            handler.family, size, answer.usage, answer_s=answered_at - started_at, total_s=total_s
        )
        if answer.usage is not None:
            headers = compute_headers(answer.usage, size.num_characters, total_s)
            if negotiated.wants_input_lengths:
                headers["x-bei-input-tokens"] = ",".join(map(str, answer.usage.input_lengths))
            # Not by `update`, which looks through all of them for each: none is there yet.
            response.raw_headers += [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
            ]
        return response

    async def _answer(self, request: SizedRequest) -> Answer:
        try:
            return await self._handler.answer(request)
        except RequestError as error:
            # The pipeline does not know what this API calls its inputs.
            error.param = error.param or self._handler.input_field
            raise
        except WrongTaskError as error:
            # Nor does it know of routes.
            if error.hint is None:
                error.hint = describe_model(self._state.model_name, self._state.pipeline.model)
            raise


def compute_headers(usage: Usage, num_characters: int, total_s: float) -> dict[str, str]:
    """Return the headers of inferences, most of them text-embeddings-inference's; times in ms."""
    timing = usage.timing
    total_ms = str(int(total_s * 1000))
    return {
        "x-compute-type": "cpu",
        "x-compute-time": total_ms,
        "x-compute-characters": str(num_characters),
        "x-compute-tokens": str(usage.num_tokens),
        "x-total-time": total_ms,
        "x-tokenization-time": str(int(timing.tokenization_s * 1000)),
        "x-queue-time": str(int(timing.queue_s * 1000)),
        "x-inference-time": str(int(timing.inference_s * 1000)),
        "x-bei-truncated-inputs": str(usage.num_truncated_inputs),
        SERVER_TIMING: server_timing(timing, total_s),
    }


def _reason(error: Exception) -> str:
    if isinstance(error, ClientLeftError):
        return "dropped"
    return words_for(error).failure if isinstance(error, BeiError) else "internal"
