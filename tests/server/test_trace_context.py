import json
import logging

import pytest
from tests.server.fakes import ask_all

from beicli.server.access_log import JsonFormatter
from beicli.server.options import ServerOptions
from beicli.server.trace_context import given_trace_id

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        (f"00-{TRACE}-{PARENT}-01", TRACE),
        (f"00-{TRACE}-{PARENT}-00", TRACE),
        (f"cc-{TRACE}-{PARENT}-01", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-later-versions-say", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-\xff", None),
        (f"cc-{TRACE}-{PARENT}-01-two words", None),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE[:-1]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}", None),
        ("w1 w2", None),
        ("", None),
    ],
)
def test_a_trace_is_known_by_a_header_as_the_standard_has_it(
    header: str, trace_id: str | None
) -> None:
    assert given_trace_id({"headers": [(b"traceparent", header.encode("latin-1"))]}) == trace_id


def test_of_two_headers_neither_is_believed() -> None:
    headers = [(b"traceparent", f"00-{TRACE}-{parent * 16}-01".encode()) for parent in "ab"]

    assert given_trace_id({"headers": headers[:1]}) == TRACE
    assert given_trace_id({"headers": headers}) is None
    assert given_trace_id({"headers": []}) is None


@pytest.mark.parametrize(("header", "logged"), [(f"00-{TRACE}-{PARENT}-01", TRACE), ("w1", None)])
def test_the_line_of_a_request_has_the_trace_it_belongs_to(
    header: str, logged: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    request: dict[str, object] = {"json": {"input": "w1"}, "headers": {"traceparent": header}}
    with caplog.at_level(logging.INFO, logger="beicli"):
        ask_all([("POST", "/v1/embeddings", request)], options=ServerOptions(access_log=True))

    (line,) = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert line.get("trace_id") == logged
