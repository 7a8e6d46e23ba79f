import json
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from tests.server.fakes import FakeEngine, live_server
from tests.validation.endpoint.cases import CASES, make_engine
from tests.validation.endpoint.proxy import Change, Exchange, proxy

from beicli.model.spec import Task
from beicli.server.options import ServerOptions
from beicli.validation.endpoint.conformance import RULES, validate_server
from beicli.validation.findings import TargetReport, Verdict

KEY = "a-key-of-ours"


def contracts_of(report: TargetReport) -> dict[str, str]:
    return {entry["contract"]: entry["verdict"] for entry in report.facts["contracts"]}


@contextmanager
def spoiled(task: Task, change: Change) -> Iterator[TargetReport]:
    with live_server(make_engine(task)) as server, proxy(server.url, change) as url:
        yield validate_server(url, timeout_s=20)


@pytest.mark.parametrize(
    ("task", "kept"),
    [
        (Task.EMBEDDING, {"OpenAI embeddings", "TEI embeddings"}),
        (Task.SPARSE_EMBEDDING, {"TEI sparse embeddings"}),
        (Task.RERANKING, {"TEI rerank", "Cohere rerank", "Jina rerank", "TEI predict"}),
        (Task.CLASSIFICATION, {"TEI predict"}),
        (Task.TOKEN_CLASSIFICATION, {"BEI predict_tokens"}),
    ],
)
def test_our_own_server_keeps_the_contracts_of_its_task(task: Task, kept: set[str]) -> None:
    with live_server(make_engine(task)) as server:
        report = validate_server(server.url)

    assert report.verdict is Verdict.CLEAN, report.findings
    found = contracts_of(report)
    assert {contract for contract, verdict in found.items() if verdict == "kept"} >= kept
    assert "broken" not in found.values()
    assert report.num_checks > 1
    json.dumps(report.facts)


def test_a_base_url_of_the_openai_client_will_do() -> None:
    with live_server() as server:
        assert validate_server(f"{server.url}/v1/").verdict is Verdict.CLEAN


# -- one thing wrong ----------------------------------------------------------------------------


def at(route: str, spoil: Callable[[Exchange], None], *, when: str = "") -> Change:
    """Spoil successful answers of a route, those to requests that contain `when`."""

    def change(exchange: Exchange) -> None:
        is_asked = exchange.path == route and when in json.dumps(exchange.body)
        if is_asked and exchange.status == 200:
            spoil(exchange)

    return change


def refusals_at(route: str, status: int, value: Any = None) -> Change:
    def change(exchange: Exchange) -> None:
        if exchange.path == route and 400 <= exchange.status < 500:
            exchange.status = status
            exchange.value = exchange.value if value is None else value

    return change


def only(route: str, is_it: Callable[[Any], bool], status: int) -> Change:
    """Answer certain requests with another status."""

    def change(exchange: Exchange) -> None:
        if exchange.path == route and is_it(exchange.body):
            exchange.status, exchange.value = status, {"data": [], "error": "x"}

    return change


def without(*keys: str) -> Callable[[Exchange], None]:
    return lambda exchange: [exchange.value.pop(key) for key in keys] and None


def backwards(exchange: Exchange) -> None:
    exchange.value.reverse()


def data_backwards(exchange: Exchange) -> None:
    vectors = [entry["embedding"] for entry in exchange.value["data"]][::-1]
    for entry, vector in zip(exchange.value["data"], vectors, strict=True):
        entry["embedding"] = vector


def longer(exchange: Exchange) -> None:
    for entry in exchange.value["data"]:
        if isinstance(entry["embedding"], list):
            entry["embedding"] = [3 * number for number in entry["embedding"]]


def too_long_is(status: int) -> Change:
    def change(exchange: Exchange) -> None:
        if exchange.body and len(json.dumps(exchange.body)) > 50_000:
            exchange.status, exchange.value = status, {"message": "x", "error": "x"}

    return change


def set_to(key: str, value: Any) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.value.__setitem__(key, value)


def first_score(key: str, value: Any) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.value[0].__setitem__(key, value)


E, V = "/v1/embeddings", Task.EMBEDDING
SPOILED: list[tuple[str, Task, Change]] = [
    ("openai-form", V, at(E, without("object"))),
    ("openai-usage", V, at(E, without("usage"))),
    ("openai-order", V, at(E, data_backwards)),
    ("openai-base64", V, at(E, lambda e: e.value["data"][0].update(embedding="!!"), when="base64")),
    ("openai-unit-length", V, at(E, longer)),
    (
        "openai-dimensions",
        V,
        at(E, lambda e: e.value["data"][0]["embedding"].append(1.0), when="dimensions"),
    ),
    ("openai-too-many-dimensions", V, only(E, lambda b: b and b.get("dimensions") == 10**6, 200)),
    ("openai-empty", V, only(E, lambda b: bool(b) and b.get("input") == [], 200)),
    ("openai-missing", V, only(E, lambda b: bool(b) and "input" not in b, 500)),
    ("openai-no-json", V, only(E, lambda b: b is None, 500)),
    ("openai-error-body", V, refusals_at(E, 422, {"message": ""})),
    ("openai-long-text", V, too_long_is(500)),
    ("tei-order", V, at("/embed", backwards)),
    ("tei-normalize", V, at("/embed", set_to(0, [5.0, 5.0] * 4), when='"normalize": false')),
    ("tei-truncate", V, too_long_is(413)),
    ("tei-empty", V, refusals_at("/embed", 400, {"message": "an empty list"})),
    ("tei-missing", V, only("/embed", lambda b: b == {}, 500)),
    ("tei-no-json", V, only("/embed", lambda b: b is None, 500)),
    ("tei-batch-limit", V, refusals_at("/embed", 422, {"error": "too many", "error_type": "x"})),
    ("tei-info", V, at("/info", without("max_input_length"))),
    ("tei-similarity", V, at("/similarity", set_to(1, 0.123))),
    ("tei-tokenize", V, at("/tokenize", lambda e: e.value[0][0].pop("id"))),
    ("tei-embed-all", V, at("/embed_all", lambda e: e.value[0][0].append(0.0))),
    (
        "tei-sparse-order",
        Task.SPARSE_EMBEDDING,
        at(
            "/embed_sparse",
            lambda e: e.value[1].append({"index": 7, "value": 9.0}),
            when='"inputs": ["',
        ),
    ),
    ("rerank-order", Task.RERANKING, at("/rerank", backwards)),
    (
        "rerank-texts",
        Task.RERANKING,
        at("/rerank", first_score("text", "another"), when='"return_text": true'),
    ),
    ("rerank-empty", Task.RERANKING, refusals_at("/rerank", 500)),
    ("cohere-rerank", Task.RERANKING, at("/v2/rerank", lambda e: e.value["results"].reverse())),
    ("jina-rerank", Task.RERANKING, at("/v1/rerank", lambda e: e.value["results"].pop())),
    ("predict-form", Task.CLASSIFICATION, at("/predict", backwards, when='"inputs": "')),
    ("predict-order", Task.CLASSIFICATION, at("/predict", backwards, when='"inputs": [[')),
    ("predict-empty", Task.CLASSIFICATION, refusals_at("/predict", 200)),
    (
        "predict-tokens-form",
        Task.TOKEN_CLASSIFICATION,
        at("/predict_tokens", lambda e: e.value[0][1].update(token="another")),
    ),
    (
        "predict-tokens-aggregated",
        Task.TOKEN_CLASSIFICATION,
        at(
            "/predict_tokens",
            lambda e: e.value.__setitem__(
                0, [{"token": "", "start": 0, "end": 0, "results": {"B-PER": 1.0}}]
            ),
            when="aggregation_strategy",
        ),
    ),
    (
        "server-contract-broken",
        Task.CLASSIFICATION,
        only("/predict", bool, 500),
    ),
    (
        "server-unhealthy",
        V,
        lambda e: setattr(e, "status", 503) if e.path == "/health" else None,
    ),
    *CASES,
]


@pytest.mark.parametrize(("rule", "task", "change"), SPOILED, ids=[case[0] for case in SPOILED])
def test_a_broken_promise_is_found_and_can_be_repeated(
    rule: str, task: Task, change: Change
) -> None:
    with spoiled(task, change) as report:
        found = {finding.rule: finding for finding in report.findings}

    assert rule in found, report.findings
    assert found[rule].place.startswith("/")
    assert found[rule].reproduce
    assert "curl" in str(found[rule].reproduce)
    if found[rule].level != "warning":
        assert report.verdict is Verdict.FAILED


def test_every_rule_of_a_server_is_exercised_here() -> None:
    others = {
        "server-unreachable",
        "server-key-refused",
        "server-key-not-needed",
        "server-no-contract",
        "server-contract-refused",
        # See test_other_servers.py and test_patience.py.
        "server-went-away",
        "server-redirects",
        "server-no-health",
        "server-rate-limited",
        "server-contract-missing",
        "server-lists-only",
    }

    assert {rule.name for rule in RULES} == {case[0] for case in SPOILED} | others


def test_the_command_repeats_the_failure() -> None:
    with live_server() as server, proxy(server.url, at(E, without("object"))) as url:
        report = validate_server(url)
        (finding,) = [finding for finding in report.findings if finding.rule == "openai-form"]
        command = shlex.split(str(finding.reproduce))
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)

    assert '"embedding"' in done.stdout
    assert '"object": "list"' not in done.stdout


def test_a_contract_of_another_task_is_only_mentioned() -> None:
    with live_server(FakeEngine(task=Task.EMBEDDING)) as server:
        report = validate_server(server.url)

    assert {finding.rule for finding in report.findings} == {"server-contract-refused"}
    assert any("424" in finding.what for finding in report.findings)


# -- servers that are no such server ------------------------------------------------------------


def test_nobody_there_is_said_at_once() -> None:
    report = validate_server("http://127.0.0.1:9")

    assert [finding.rule for finding in report.findings] == ["server-unreachable"]
    assert report.verdict is Verdict.FAILED


@pytest.mark.parametrize("url", ["http://", "http://host:port", "https://[::1", "http://a b"])
def test_an_impossible_address_is_no_traceback(url: str) -> None:
    assert validate_server(url, timeout_s=2).verdict is Verdict.FAILED


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept connections and let `answer` do with each what it likes."""
    listener = socket.create_server(("127.0.0.1", 0))
    is_over = False

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                answer(connection)
            except OSError:
                pass

    def accept() -> None:
        while not is_over:
            connection, _ = listener.accept()
            Thread(target=serve_one, args=(connection,), daemon=True).start()

    thread = Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        is_over = True
        socket.create_connection(listener.getsockname()).close()
        thread.join()
        listener.close()


def hang(connection: socket.socket) -> None:
    connection.recv(1)


def never_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")


def talk_nonsense(connection: socket.socket) -> None:
    connection.sendall(b"220 mail.example.org ESMTP\r\n")


def hang_up(connection: socket.socket) -> None:
    connection.close()


def page(connection: socket.socket) -> None:
    body = b"<html>It works!</html>"
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.mark.parametrize("answer", [hang, never_end, talk_nonsense, hang_up, page])
def test_a_server_of_another_kind_fails_in_time(answer: Callable[[socket.socket], None]) -> None:
    with raw_server(answer) as url:
        report = validate_server(url, timeout_s=0.2)

    assert report.verdict is Verdict.FAILED


def test_a_server_without_any_route_keeps_no_contract() -> None:
    def nothing(exchange: Exchange) -> None:
        exchange.status, exchange.value = 404, {"detail": "Not Found"}

    with spoiled(Task.EMBEDDING, nothing) as report:
        assert "server-no-contract" in {finding.rule for finding in report.findings}


# -- keys ---------------------------------------------------------------------------------------


@pytest.fixture
def keyed_url() -> Iterator[str]:
    options = ServerOptions(port=0, api_keys=(KEY,))
    with live_server(options=options) as server:
        yield server.url


def test_with_the_key_everything_is_checked(keyed_url: str) -> None:
    report = validate_server(keyed_url, api_key=KEY)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert KEY not in repr(report)


@pytest.mark.parametrize("key", [None, "another"])
def test_without_the_key_it_says_how_to_give_it(keyed_url: str, key: str | None) -> None:
    report = validate_server(keyed_url, api_key=key)

    assert [finding.rule for finding in report.findings] == ["server-key-refused"]
    assert report.findings[0].fix


def test_a_key_that_nobody_asks_for_is_a_warning() -> None:
    with live_server() as server:
        report = validate_server(server.url, api_key=KEY)

    assert report.verdict is Verdict.WARNINGS
    assert "server-key-not-needed" in {finding.rule for finding in report.findings}
    assert KEY not in repr(report)


# -- other people's servers ---------------------------------------------------------------------


def like_vllm(exchange: Exchange) -> None:
    """Errors in OpenAI's own form, and nothing but OpenAI's routes and Jina's."""
    if not exchange.path.startswith(("/v1/embeddings", "/v1/models", "/health")):
        exchange.status, exchange.value = 404, {"detail": "Not Found"}
    elif exchange.status >= 400:
        error = {"message": "bad request", "type": "BadRequestError", "code": 400}
        exchange.status, exchange.value = 400, {"error": error}


def test_a_server_with_openais_routes_only_is_clean() -> None:
    with spoiled(Task.EMBEDDING, like_vllm) as report:
        assert report.verdict is Verdict.CLEAN, report.findings
        found = contracts_of(report)

    assert found.pop("OpenAI embeddings") == "kept"
    assert set(found.values()) == {"not offered"}
