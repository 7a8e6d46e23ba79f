"""Traces of requests: what the real SDK makes of them, and what a collector receives."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import Scope
from tests.server.fakes import FakeEngine, ask_all, live_server, make_pipeline, wait_until
from tests.server.test_trace_context import PARENT, TRACE

from beicli.engine.options import EngineOptions
from beicli.server.access_log import JsonFormatter
from beicli.server.app import create_app
from beicli.server.options import ServerOptions
from beicli.server.records import RequestRecord
from beicli.server.tracing import Tracer
from beicli.server.watchers import Watchers

EMBEDDINGS = "/v1/embeddings"
SECRET = "w1 w2"
STAGES = ["tokenize", "queue", "inference", "encode"]
Requests = Sequence[tuple[str, str, dict[str, object]]]


def trace(
    requests: Requests, *, engine: FakeEngine | None = None, options: ServerOptions | None = None
) -> tuple[list[ReadableSpan], list[httpx2.Response]]:
    """Send requests to an application without a network; return their spans and their answers."""

    async def run() -> tuple[list[ReadableSpan], list[httpx2.Response]]:
        exporter = InMemorySpanExporter()
        tracer = Tracer(SimpleSpanProcessor(exporter), {"service.name": "bei"})
        with make_pipeline(engine or FakeEngine()) as pipeline:
            app = create_app(pipeline, options or ServerOptions(), watchers=Watchers(tracer=tracer))
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                answers = [
                    await client.request(method, path, **request)
                    for method, path, request in requests
                ]
        return list(exporter.get_finished_spans()), answers

    return asyncio.run(run())


def embed(body: object, **headers: str) -> tuple[str, str, dict[str, object]]:
    return ("POST", EMBEDDINGS, {"json": body, "headers": headers})


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_request_is_a_span_by_the_names_of_the_conventions() -> None:
    headers = {"x-request-id": "mine"}

    spans, _ = trace([embed({"input": [SECRET, "w1 " * 40]}, **headers)])

    (server,) = [span for span in spans if span.kind is SpanKind.SERVER]
    assert (server.name, server.parent) == ("POST /v1/embeddings", None)
    assert server.status.status_code is StatusCode.UNSET
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "bei.request_id": "mine",
        "bei.num_inputs": 2,
        "bei.num_tokens": 4 + 16,
        "bei.num_truncated_inputs": 1,
    }


def test_its_parts_are_spans_with_the_times_that_were_measured() -> None:
    before_ns = time.time_ns()
    spans, (answer,) = trace([embed({"input": "w1"})])
    after_ns = time.time_ns()

    *stages, server = spans
    assert [span.name for span in stages] == STAGES
    assert server.context is not None
    assert server.start_time is not None
    assert server.end_time is not None
    measured = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    ends = server.start_time
    for span in stages:
        assert span.parent is not None
        assert span.parent.span_id == server.context.span_id
        assert span.kind is SpanKind.INTERNAL
        assert span.start_time is not None
        assert span.end_time is not None
        # The clocks are read one after the other, and nanoseconds do not fit a float.
        assert ends - 1000 <= span.start_time <= span.end_time <= server.end_time + 1000
        ends = span.end_time
        if span.name in measured:
            took_ms = (span.end_time - span.start_time) / 1e6
            assert took_ms == pytest.approx(float(measured[span.name]), abs=2e-3)
    first, last = stages[0], stages[-1]
    assert first.start_time is not None
    assert last.end_time is not None
    took_ms = (last.end_time - first.start_time) / 1e6
    assert took_ms == pytest.approx(float(measured["total"]), abs=2e-3)
    slack_ns = 50_000_000
    assert before_ns - slack_ns <= server.start_time <= server.end_time <= after_ns + slack_ns


@pytest.mark.parametrize(("flags", "num_spans"), [("01", 1 + len(STAGES)), ("00", 0)])
def test_a_clients_trace_goes_on_and_its_flag_decides(flags: str, num_spans: int) -> None:
    parent = f"00-{TRACE}-{PARENT}-{flags}"

    spans, _ = trace([embed({"input": "w1"}, traceparent=parent, tracestate="vendor=1")])

    assert len(spans) == num_spans
    for span in spans:
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE
    for server in spans[-1:]:
        assert server.parent is not None
        assert server.context is not None
        assert f"{server.parent.span_id:016x}" == PARENT
        assert server.parent.is_remote
        assert server.context.trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    ("request_", "status", "failure", "code"),
    [
        (embed({"input": []}), 400, "empty_input", StatusCode.UNSET),
        (embed({"input": "w2"}), 424, "engine_error", StatusCode.UNSET),
        (("POST", f"/{SECRET}", {"json": {}}), 404, "unknown_url", StatusCode.UNSET),
        (("BREW", EMBEDDINGS, {}), 405, "method_not_allowed", StatusCode.UNSET),
    ],
)
def test_a_request_that_failed_is_a_span_that_says_why(
    request_: tuple[str, str, dict[str, object]], status: int, failure: str, code: StatusCode
) -> None:
    (server,), _ = trace([request_], engine=FakeEngine(poison_id=6))

    found = attributes(server)
    assert (found["http.response.status_code"], found["error.type"]) == (status, failure)
    assert server.status.status_code is code
    assert ("http.route" in found) == (request_[1] == EMBEDDINGS)
    if request_[0] == "BREW":
        assert (server.name, found["http.request.method"]) == ("other /v1/embeddings", "_OTHER")


def test_what_is_the_servers_own_fault_is_an_error() -> None:
    class Bug(FakeEngine):
        def padded_length(self, num_tokens: int) -> int:
            raise KeyError("w1")

    (server,), (answer,) = trace([embed({"input": "w1"})], engine=Bug())

    assert (answer.status_code, server.status.status_code) == (500, StatusCode.ERROR)
    assert attributes(server)["error.type"] == "internal_error"


def test_nothing_that_a_request_says_is_in_its_spans() -> None:
    requests = [
        embed({"input": SECRET}),
        embed({"input": SECRET, "dimensions": SECRET}),
        ("POST", f"/{SECRET}", {"json": {}}),
        ("POST", f"{EMBEDDINGS}?q={SECRET}", {"json": {"input": SECRET}}),
        embed({"input": "w1"}, traceparent=SECRET, authorization="Bearer w1 w2"),
    ]

    spans, _ = trace(requests)

    assert len([span for span in spans if span.kind is SpanKind.SERVER]) == len(requests)
    assert not any(SECRET in span.to_json() or "w1%20w2" in span.to_json() for span in spans)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_and_scrapes_are_not_traced(path: str) -> None:
    spans, (answer,) = trace([("GET", path, {})])

    assert (answer.status_code, spans) == (200, [])


def test_the_line_of_a_request_has_the_trace_that_was_begun_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="beicli"):
        spans, _ = trace([embed({"input": "w1"})], options=ServerOptions(access_log=True))

    (line,) = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert spans[-1].context is not None
    assert line["trace_id"] == f"{spans[-1].context.trace_id:032x}"


class Broken:
    """A tracer that has a bug."""

    def write(
        self, scope: Scope, record: RequestRecord, *, route: str, status: int | None
    ) -> str | None:
        raise KeyError(route)

    def close(self) -> None:
        pass


def test_a_request_that_cannot_be_traced_is_answered_and_has_its_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> httpx2.Response:
        with make_pipeline(FakeEngine()) as pipeline:
            watchers = Watchers(tracer=Broken())
            app = create_app(pipeline, ServerOptions(access_log=True), watchers=watchers)
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post(EMBEDDINGS, json={"input": "w1"})

    with caplog.at_level(logging.INFO, logger="beicli"):
        answer = asyncio.run(run())

    assert answer.status_code == 200
    bug, line = caplog.records
    assert bug.levelno == logging.ERROR
    assert json.loads(JsonFormatter().format(line))["status"] == 200


@pytest.mark.parametrize("version", [b"01", b"00"])
def test_a_traceparent_that_is_no_text_belongs_to_no_trace(version: bytes) -> None:
    header = version + f"-{TRACE}-{PARENT}-01-".encode() + b"\xff"
    request_ = ("POST", EMBEDDINGS, {"json": {"input": "w1"}, "headers": {"traceparent": header}})

    spans, (answer,) = trace([request_])

    assert answer.status_code == 200
    assert (len(spans), spans[-1].parent) == (1 + len(STAGES), None)


class Collector:
    """An OTLP collector on a loopback port, as much of it as the exporter sees."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.append(self.path)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def test_a_collector_receives_what_a_server_did_until_it_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with collecting() as collector:
        options = ServerOptions(
            port=0,
            otlp_endpoint=collector.url,
            num_replicas=2,
            engine=EngineOptions(replica_number=1),
        )
        with live_server(options=options) as server:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            body = {"input": SECRET}
            answer = httpx2.post(f"{server.url}{EMBEDDINGS}", json=body, headers=headers)
            assert answer.status_code == 200

    # Within less than the five seconds that spans are gathered for: the stop sent them.
    assert set(collector.paths) == {"/v1/traces"}
    (resource,) = [spans for request in collector.requests for spans in request.resource_spans]
    told = {
        each.key: each.value.string_value or each.value.int_value
        for each in resource.resource.attributes
    }
    assert (told["service.name"], told["bei.model"], told["bei.replica"]) == ("bei", "tiny", 1)
    assert told["deployment.environment.name"] == "test"
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == [*STAGES, f"POST {EMBEDDINGS}"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert {span.parent_span_id for span in spans[:-1]} == {spans[-1].span_id}
    assert spans[-1].parent_span_id.hex() == PARENT
    assert not any(SECRET.encode() in each.SerializeToString() for each in collector.requests)


def test_the_operators_name_for_the_service_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "search")

    spans, _ = trace([embed({"input": "w1"})])

    assert spans[-1].resource.attributes["service.name"] == "search"


def test_a_sdk_that_is_switched_off_makes_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    spans, (answer,) = trace([embed({"input": "w1"})])

    assert (answer.status_code, spans) == (200, [])


def test_a_collector_that_does_not_answer_holds_neither_requests_nor_the_stop_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beicli.server.watchers.TRACES_CLOSE_TIMEOUT_S", 0.05)
    answered = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answered.wait(20)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as silent:
        threading.Thread(target=silent.serve_forever, daemon=True).start()
        options = ServerOptions(
            port=0, otlp_endpoint=f"http://127.0.0.1:{silent.server_port}/v1/traces"
        )
        with live_server(options=options) as server:
            for _ in range(3):
                body = {"input": "w1"}
                assert httpx2.post(f"{server.url}{EMBEDDINGS}", json=body).status_code == 200
            began_at = time.monotonic()
            server.stop()
            assert server.join(10)
            assert time.monotonic() - began_at < 5
        answered.set()
        # The thread that sends is done as well then.
        wait_until(lambda: "bei-close-traces" not in {each.name for each in threading.enumerate()})
        silent.shutdown()


def test_without_a_collector_no_trace_is_begun() -> None:
    (answer,) = ask_all([embed({"input": "w1"})])

    assert answer.status_code == 200
