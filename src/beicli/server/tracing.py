"""Spans of requests, sent to a collector by OTLP; the only module that knows OpenTelemetry.

Imported only where the option or OpenTelemetry's variables name a collector. A request's spans are
made when it has ended, from the times that were measured anyway, so tracing adds nothing to its way
through the server. They hold counts, times and names of routes; of the client's own words the ids
of request and trace, and `tracestate`.
"""

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.types import Scope

from beicli import __version__
from beicli.server.authentication import PUBLIC_PATHS
from beicli.server.options import ServerOptions
from beicli.server.records import UNKNOWN_ROUTE, RequestRecord, shown_method
from beicli.server.request_ids import request_id
from beicli.server.trace_context import traceparent

_SERVER_ERROR = 500


class Tracer:
    """Makes spans of requests that have ended; used on the event loop.

    processor: what becomes of the spans. resource: what they say of this server; variables of
        OpenTelemetry, such as OTEL_SERVICE_NAME, win.
    """

    def __init__(self, processor: SpanProcessor, resource: dict[str, AttributeValue]) -> None:
        described = Resource.create(resource).merge(OTELResourceDetector().detect())
        # Without `atexit`: whoever serves closes this, and does not wait long for a collector.
        self._provider = TracerProvider(resource=described, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("beicli", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def write(
        self, scope: Scope, record: RequestRecord, *, route: str, status: int | None
    ) -> str | None:
        """Make the spans of one request; returns the id of its trace, None without one.

        Whether they are kept follows from the client's `traceparent`, else from the sampler.
        status: None if it got no answer.
        """
        if route in PUBLIC_PATHS:
            # Probes and scrapes would be most of what a collector gets.
            return None
        # The SDK wants the time since 1970, and records have that of a clock that never jumps.
        offset_ns = time.time_ns() - time.perf_counter_ns()
        method = shown_method(scope)
        span = self._tracer.start_span(
            method if route == UNKNOWN_ROUTE else f"{method} {route}",
            context=self._propagator.extract(_carrier(scope)),
            kind=SpanKind.SERVER,
            attributes=_attributes(scope, record, route=route, status=status),
            start_time=offset_ns + _ns(record.started_at),
        )
        if status is not None and status >= _SERVER_ERROR:
            span.set_status(StatusCode.ERROR)
        if span.is_recording():
            inside = set_span_in_context(span)
            for name, started_at, duration_s in _stages(record):
                start_ns = offset_ns + _ns(started_at)
                stage = self._tracer.start_span(name, context=inside, start_time=start_ns)
                stage.end(start_ns + _ns(duration_s))
        span.end(time.time_ns())
        found = span.get_span_context()
        return f"{found.trace_id:032x}" if found.is_valid else None

    def close(self) -> None:
        """Send what was not sent yet; may take as long as the collector lets it."""
        self._provider.shutdown()


def open_tracer(options: ServerOptions, *, model_name: str) -> Tracer:
    """Return what sends spans to the collector that the options name."""
    assert options.otlp_endpoint is not None, "somebody asked for traces"
    resource: dict[str, AttributeValue] = {
        "service.name": "bei",
        "service.version": __version__,
        "bei.model": model_name,
    }
    if options.num_replicas > 1:
        resource["bei.replica"] = options.engine.replica_number
    exporter = OTLPSpanExporter(endpoint=options.otlp_endpoint)
    return Tracer(BatchSpanProcessor(exporter), resource)


def _carrier(scope: Scope) -> dict[str, str]:
    """Return the headers that say which trace a request belongs to."""
    parent = traceparent(scope)
    if parent is None:
        return {}
    state = [value for name, value in scope["headers"] if name == b"tracestate"]
    return {"traceparent": parent.decode(), "tracestate": b",".join(state).decode("latin-1")}


def _attributes(
    scope: Scope, record: RequestRecord, *, route: str, status: int | None
) -> dict[str, AttributeValue]:
    """Return what is known of a request, by OpenTelemetry's names where it has one.

    Its `url.path` is left out: where no route takes a path, it is the client's own text.
    """
    method = shown_method(scope)
    found: dict[str, AttributeValue] = {
        "http.request.method": "_OTHER" if method == "other" else method,
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "bei.request_id": request_id(scope),
    }
    if route != UNKNOWN_ROUTE:
        found["http.route"] = route
    if status is not None:
        found["http.response.status_code"] = status
    if record.failure is not None:
        found["error.type"] = record.failure
    if record.num_inputs is not None:
        found["bei.num_inputs"] = record.num_inputs
    if record.usage is not None:
        found["bei.num_tokens"] = record.usage.num_tokens
        found["bei.num_truncated_inputs"] = record.usage.num_truncated_inputs
    return found


def _stages(record: RequestRecord) -> list[tuple[str, float, float]]:
    """List the parts of a request: name, start by the clock of the record, duration in seconds.

    Waiting and computing are means over the inputs, so they stand one behind the other from the
    complete body on; encoding, the last part, ends with the whole.
    """
    if record.read_at is None or record.total_s is None or record.usage is None:
        return []
    timing, stages = record.usage.timing, []
    at = record.read_at
    for name, duration_s in (
        ("tokenize", timing.tokenization_s),
        ("queue", timing.queue_s),
        ("inference", timing.inference_s),
    ):
        stages.append((name, at, duration_s))
        at += duration_s
    encoded_at = record.read_at + record.total_s
    return [*stages, ("encode", encoded_at - record.encode_s, record.encode_s)]


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
