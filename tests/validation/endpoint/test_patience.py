"""Servers that are slow, busy or gone: a run ends in time and keeps what it has found."""

import socket
import time
from collections.abc import Callable

import pytest
from tests.validation.endpoint.scripted import Asked, OpenAIServer, Said, scripted
from tests.validation.endpoint.test_conformance import raw_server

from beicli.validation.endpoint.conformance import validate_server
from beicli.validation.findings import Verdict


def drip_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x-a: b\r\n")
        time.sleep(0.05)


def process_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [drip_headers, process_for_ever])
def test_an_answer_that_never_begins_ends_the_run(
    answer: Callable[[socket.socket], None],
) -> None:
    started = time.monotonic()
    with raw_server(answer) as url:
        report = validate_server(url, timeout_s=0.2)

    assert report.verdict is Verdict.FAILED
    assert time.monotonic() - started < 10


def test_who_wants_a_pause_gets_it() -> None:
    embeddings = OpenAIServer()
    num_asked = 0

    def script(asked: Asked) -> Said:
        nonlocal num_asked
        num_asked += asked.method == "POST"
        is_busy = asked.method == "POST" and num_asked % 7 == 0
        return Said(429, {}, {"Retry-After": "0"}) if is_busy else embeddings(asked)

    with scripted(script) as url:
        report = validate_server(url)

    assert report.verdict is Verdict.CLEAN, report.findings


def test_who_wants_pauses_only_is_not_judged() -> None:
    def script(asked: Asked) -> Said:
        if asked.method == "GET":
            return OpenAIServer()(asked)
        return Said(429, {"error": {"message": "quota"}}, {"Retry-After": "0"})

    with scripted(script) as url:
        report = validate_server(url)

    assert report.verdict is Verdict.WARNINGS
    assert {finding.rule for finding in report.findings} == {"server-rate-limited"}
    assert {entry["verdict"] for entry in report.facts["contracts"]} == {
        "not checked",
        "not offered",
    }


def test_a_limit_in_the_middle_leaves_checks_out() -> None:
    embeddings = OpenAIServer()

    def script(asked: Asked) -> Said:
        is_busy = isinstance(asked.body, dict) and "encoding_format" in asked.body
        return Said(503, {}, {"Retry-After": "0"}) if is_busy else embeddings(asked)

    with scripted(script) as url:
        report = validate_server(url)

    (found,) = [each for each in report.facts["contracts"] if each["num_checks"]]
    assert report.verdict is Verdict.WARNINGS, report.findings
    assert found["verdict"] == "not checked"
    assert found["num_skipped"] >= 3


def test_a_server_that_dies_takes_no_findings_with_it() -> None:
    embeddings = OpenAIServer()
    dying = []

    def script(asked: Asked) -> Said:
        if isinstance(asked.body, dict) and asked.body.get("dimensions") == 8:
            # Nobody answers from here on.
            dying.append(asked)
        if dying:
            raise ConnectionError
        said = embeddings(asked)
        if said.status == 200 and isinstance(said.value, dict):
            said.value.pop("object", None)
        return said

    with scripted(script) as url:
        report = validate_server(url, timeout_s=5)

    rules = [finding.rule for finding in report.findings]
    assert "openai-form" in rules
    (gone,) = [each for each in report.findings if each.rule == "server-went-away"]
    assert '"dimensions": 8' in str(gone.reproduce)
    assert "curl" in gone.what


def test_progress_names_what_is_checked() -> None:
    lines: list[str] = []
    with scripted(OpenAIServer()) as url:
        validate_server(url, progress=lines.append)

    assert lines == ["OpenAI embeddings"]
