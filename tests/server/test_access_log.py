import io
import json
import logging
import socket
import sys
from collections.abc import Iterator

import pytest
from tests.server.fakes import FakeEngine, ask_all, live_server, wait_until

from beicli.engine.options import EngineOptions
from beicli.server.access_log import JsonFormatter, TextFormatter, configure_logging
from beicli.server.options import ServerOptions

OPTIONS = ServerOptions(access_log=True)
SECRET = "w1 w2"


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="beicli"):
        yield


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What was logged of requests, as programs read it."""
    return [
        json.loads(JsonFormatter().format(record))
        for record in caplog.records
        if record.name == "beicli.access"
    ]


def embed(
    caplog: pytest.LogCaptureFixture,
    body: object,
    *,
    path: str = "/v1/embeddings",
    options: ServerOptions = OPTIONS,
    engine: FakeEngine | None = None,
) -> dict[str, object]:
    """Send one request and return its line."""
    headers = {"x-request-id": "mine"}
    ask_all([("POST", path, {"json": body, "headers": headers})], options=options, engine=engine)
    (line,) = lines(caplog)
    return line


def test_a_request_is_a_line_with_its_id_and_what_it_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = embed(caplog, {"input": [SECRET, "w1 " * 40]}, path="/sync/v1/embeddings")

    times = ("total_ms", "tokenize_ms", "queue_ms", "inference_ms", "duration_ms")
    assert all(isinstance(line.pop(name), float) for name in times)
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "beicli.access",
        "message": "POST /v1/embeddings",
        "request_id": "mine",
        "method": "POST",
        "route": "/v1/embeddings",
        "status": 200,
        "inputs": 2,
        "tokens": 4 + 16,
        "truncated": 1,
    }


def test_times_are_those_of_the_answers_headers(caplog: pytest.LogCaptureFixture) -> None:
    (response,) = ask_all([("POST", "/v1/embeddings", {"json": {"input": "w1"}})], options=OPTIONS)
    (line,) = lines(caplog)

    names = {"tokenize": "tokenize_ms", "queue": "queue_ms", "inference": "inference_ms"}
    for part in response.headers["server-timing"].split(", "):
        name, _, duration = part.partition(";dur=")
        assert line[names.get(name, "total_ms")] == float(duration)


@pytest.mark.parametrize(
    ("path", "body", "status", "failure"),
    [
        ("/v1/embeddings", {"input": []}, 400, "empty_input"),
        ("/v1/embeddings", {"input": ["w1"] * 129}, 413, "batch_too_large"),
        ("/v1/embeddings", {"input": "w2"}, 424, "engine_error"),
        ("/rerank", {"query": "w1", "texts": ["w1"]}, 424, "wrong_model_type"),
        ("/w1/w2", {}, 404, "unknown_url"),
    ],
)
def test_a_refusal_is_a_line_that_says_why(
    caplog: pytest.LogCaptureFixture, path: str, body: object, status: int, failure: str
) -> None:
    line = embed(caplog, body, path=path, engine=FakeEngine(poison_id=6))

    assert (line["status"], line["failure"], line["request_id"]) == (status, failure, "mine")
    assert "total_ms" not in line


def test_a_request_without_a_key_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    options = ServerOptions(access_log=True, api_keys=("key",))

    line = embed(caplog, {"input": SECRET}, options=options)

    assert (line["status"], line["failure"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/v1/embeddings", f"/{SECRET}", "/v1/embeddings?q=w1%20w2"])
def test_nothing_of_a_request_is_repeated(caplog: pytest.LogCaptureFixture, path: str) -> None:
    embed(caplog, {"input": SECRET, "dimensions": SECRET}, path=path)

    for formatter in (JsonFormatter(), TextFormatter()):
        assert not any(SECRET in formatter.format(record) for record in caplog.records)


def test_no_request_is_logged_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    ask_all([("GET", "/health", {})])

    assert lines(caplog) == []


def test_of_several_replicas_a_line_says_which(caplog: pytest.LogCaptureFixture) -> None:
    options = ServerOptions(access_log=True, num_replicas=2, engine=EngineOptions(replica_number=1))

    assert embed(caplog, {"input": "w1"}, options=options)["replica"] == 1


def test_a_client_that_leaves_is_a_line_without_a_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live_server(options=ServerOptions(port=0, access_log=True)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                b"content-length: 14\r\n\r\nhalf of"
            )
        wait_until(lambda: lines(caplog) != [])

    (line,) = lines(caplog)
    assert line["failure"] == "dropped"
    assert "status" not in line


def test_text_has_a_time_a_level_and_what_is_known() -> None:
    record = logging.LogRecord("beicli.x", logging.WARNING, "f.py", 1, "said %s", ("so",), None)
    record.created = 1.5
    record.fields = {"replica": 1, "status": 200}

    said = TextFormatter().format(record)

    assert said == "1970-01-01T00:00:01.500+00:00 warning said so replica=1 status=200"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_bug_is_logged_with_its_traceback(formatter: logging.Formatter) -> None:
    with pytest.raises(KeyError) as caught:
        {}["bug"]
    failure = (caught.type, caught.value, caught.tb)
    record = logging.LogRecord("beicli.x", logging.ERROR, "f.py", 1, "failed", (), failure)

    said = formatter.format(record)

    assert "Traceback" in said
    assert "KeyError: 'bug'" in said


def test_what_is_no_utf8_is_spelled_out_in_json() -> None:
    record = logging.LogRecord("beicli.x", logging.ERROR, "f.py", 1, "file \udcff", (), None)

    assert json.loads(JsonFormatter().format(record))["message"] == "file \udcff"


def test_what_is_logged_anywhere_is_a_line_of_json_on_standard_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    handler = configure_logging("json")
    try:
        logging.getLogger("beicli.any").warning("one\ntwo")
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("beicli").setLevel(logging.NOTSET)

    # Servers of other tests may still have something to say.
    (line,) = [line for line in written.getvalue().splitlines() if "beicli.any" in line]
    assert json.loads(line)["message"] == "one\ntwo"
