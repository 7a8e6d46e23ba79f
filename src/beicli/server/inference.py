"""What all inference routes share: admission, body, a client that leaves, headers, metrics.

A route itself is a handler of two steps: `parse` turns the fields of the body into a checked
request, `answer` asks the pipeline and says what the answer holds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from beicli.errors import BeiError, RequestError, WrongTaskError
from beicli.model.routes import describe_model
from beicli.pipeline.pipeline import InferencePipeline
from beicli.pipeline.results import Usage
from beicli.scheduler.terms import Terms
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
from beicli.server.traffic import RequestTracer


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

    def begin(self) -> None:
        """Let metrics and admission look at this engine from now on."""
        pipeline, metrics = self.pipeline, self.metrics
        self.admission.queue_state = pipeline.queue_state
        metrics.watch_queue(lambda: pipeline.num_waiting, pipeline.estimated_wait_s)
        metrics.watch_slots(pipeline.busy_s)
        metrics.watch_requests(lambda: self.admission.num_inside)
        metrics.watch_canary(None if self.canary is None else self.canary.figures)
        if pipeline.cache_statistics() is not None:
            metrics.watch_cache(pipeline.cache_statistics)
        metrics.describe(
            pipeline.manifest, served_model_name=self.model_name, num_slots=pipeline.num_slots
        )


@dataclass(frozen=True, slots=True, eq=False)
class WholeServer:
    """All engines of a server, of which most have one; names are unique.

    entrance: lets requests in before their engine is known; with one engine it is that engine's.
    metrics: what is counted whatever the engine; with one engine they are that engine's.
    tracer: who hears of every request; None if nobody does.
    retiring: the engines of before a reload that are not closed yet.
    """

    states: Sequence[ServerState]
    entrance: Admission
    metrics: ServerMetrics
    tracer: RequestTracer | None = None
    retiring: Callable[[], Sequence[InferencePipeline]] = lambda: ()


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

    def read(self, body: bytes) -> dict[str, Any]:
        """Return the fields of a body; raises RequestError if it has none, or too long texts."""
        return parse_json_object(
            body,
            example=self._handler.example,
            max_characters=self._state.options.max_input_characters,
        )

    def check_admission(self, terms: Terms) -> None:
        """Raise OverloadedError where the smallest request on these terms would be refused."""
        if self._handler.family is not None:
            self._state.pipeline.check_admission(terms)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        record = record_of(scope)
        try:
            terms = read_terms(headers)
            with self._state.admission, self._state.key_gates.of(scope), terms.apply():
                check_content_type(headers)
                self.check_admission(terms)
                async with within(terms.deadline):
                    body = await read_body(
                        headers, receive, max_bytes=self._state.options.max_body_bytes
                    )
                    started_at = time.perf_counter()
                    async with DisconnectWatch(receive):
                        fields = self.read(body)
                        response = await self.respond(
                            fields, negotiate(headers), record, started_at
                        )
                await response(scope, receive, send)
        except Exception as error:
            self._state.metrics.request_failed(failure_of(error))
            raise

    async def respond(
        self,
        fields: dict[str, Any],
        negotiated: Negotiated,
        record: RequestRecord,
        started_at: float,
    ) -> Response:
        """Answer the fields of a body; started_at: when it was complete."""
        record.read_at = started_at
        state, handler = self._state, self._handler
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


def failure_of(error: Exception) -> str:
    """Return what the metric `te_request_failure` calls an error."""
    if isinstance(error, ClientLeftError):
        return "dropped"
    return words_for(error).failure if isinstance(error, BeiError) else "internal"
