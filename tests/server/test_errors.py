import asyncio
import logging
import re

import pytest
from starlette.types import Message, Receive, Scope, Send
from tests.server.fakes import FakeEngine, ask, ask_all, make_state

import beicli.errors
from beicli.errors import BeiError, EngineError, OverloadedError, RequestError, UnhealthyError
from beicli.model.spec import Task
from beicli.server.app import _routes
from beicli.server.errors import AnswerErrors, error_response, words_for
from beicli.server.inference import WholeServer

REQUEST_ERRORS = [
    error
    for error in vars(beicli.errors).values()
    if isinstance(error, type) and issubclass(error, RequestError)
]


def through_middleware(error: Exception, *, path: str, after: list[Message]) -> list[Message]:
    """What is sent when a route sends `after` and then raises `error`."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in after:
            await send(message)
        raise error

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path}
    asyncio.run(AnswerErrors(app)(scope, receive, send))
    return sent


@pytest.mark.parametrize("error_class", REQUEST_ERRORS)
def test_every_request_error_is_the_clients_fault_in_both_shapes(
    error_class: type[RequestError],
) -> None:
    error = error_class("what is wrong", hint="what to do", param="input")

    openai = error_response(error, path="/v1/embeddings")
    tei = error_response(error, path="/rerank")

    assert 400 <= openai.status_code == tei.status_code < 500
    assert words_for(error).openai_type == "invalid_request_error"
    assert b'"message":"what is wrong"' in openai.body
    assert b'"error":"what is wrong"' in tei.body
    assert b'"hint":"what to do"' in openai.body
    assert b'"hint":"what to do"' in tei.body


@pytest.mark.parametrize(
    ("error", "status", "error_type", "openai_type", "code"),
    [
        (EngineError("e"), 424, "Backend", "server_error", "engine_error"),
        (UnhealthyError("e"), 503, "Unhealthy", "server_error", "service_unavailable"),
        (OverloadedError("e"), 429, "Overloaded", "rate_limit_error", "rate_limit_exceeded"),
        (BeiError("e"), 500, "Backend", "server_error", "internal_error"),
    ],
)
def test_a_server_error_has_its_status_and_words(
    error: BeiError, status: int, error_type: str, openai_type: str, code: str
) -> None:
    openai = error_response(error, path="/embeddings")
    tei = error_response(error, path="/health")

    assert (openai.status_code, tei.status_code) == (status, status)
    assert openai.body.decode() == (
        f'{{"error":{{"message":"e","type":"{openai_type}","param":null,"code":"{code}"}}}}'
    )
    assert tei.body.decode() == f'{{"error":"e","error_type":"{error_type}"}}'


def test_a_class_without_words_takes_those_of_its_base() -> None:
    class NewEngineError(EngineError):
        pass

    assert words_for(NewEngineError("e")) == words_for(EngineError("e"))


def test_an_overloaded_server_says_when_to_come_back() -> None:
    assert error_response(OverloadedError("e"), path="/").headers["retry-after"] == "1"


def test_a_bug_is_500_without_its_words_and_is_found_in_the_log_by_its_id(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("/secret/path")

    monkeypatch.setattr("beicli.server.openai_embeddings.Embeddings", fail)

    with caplog.at_level(logging.ERROR):
        response = ask("POST", "/v1/embeddings", engine=FakeEngine(), json={"input": "w1"})

    assert response.status_code == 500
    assert "secret" not in response.text
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    found = re.fullmatch(r"internal error; request id ([0-9a-f]{16})", error["message"])
    assert found is not None
    (record,) = caplog.records
    assert found[1] in record.getMessage()
    assert response.headers["x-request-id"] == found[1]
    assert record.exc_info is not None


def test_a_bug_is_logged_with_its_route_not_with_what_a_client_wrote(
    caplog: pytest.LogCaptureFixture,
) -> None:
    through_middleware(KeyError("bug"), path="/w1 w2", after=[])

    (record,) = caplog.records
    assert record.getMessage().endswith(" failed: POST unknown")


STATE = make_state()
WHOLE = WholeServer([STATE], entrance=STATE.admission, metrics=STATE.metrics)
POSTS = sorted({route.path for route in _routes(WHOLE) if "POST" in (route.methods or ())})


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("where", ["parse_json_object", "check_content_type"])
def test_no_route_answers_a_bug_with_its_words_its_code_or_its_place(
    path: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path of a Traceback")

    monkeypatch.setattr(f"beicli.server.inference.{where}", fail)

    answer = ask("POST", path, json={})

    assert answer.status_code == 500
    assert "request id" in answer.text
    for leak in ("secret", "Traceback", "RuntimeError", ".py", "beicli"):
        assert leak not in answer.text


@pytest.mark.parametrize("task", [Task.EMBEDDING, Task.CLASSIFICATION, Task.RERANKING])
def test_no_route_tells_what_an_engine_says_of_its_failure(task: Task) -> None:
    closing_token = 3  # in every text
    engine = FakeEngine(task=task, poison_id=closing_token)
    body = {
        **dict.fromkeys(("input", "inputs", "query"), "w1"),
        **{name: ["w1", "w2"] for name in ("texts", "documents")},
        "instances": [{"inputs": "w1"}],
    }

    answers = ask_all([("POST", path, {"json": body}) for path in POSTS], engine=engine)
    answers += ask_all([("GET", "/ready", {})], engine=engine)

    assert sum("RuntimeError" in answer.text for answer in answers) >= 2
    for answer in answers:
        assert "secret" not in answer.text
        assert "engine's own words" not in answer.text


def test_an_error_after_the_answer_began_sends_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}

    sent = through_middleware(KeyError("bug"), path="/", after=[start])

    assert sent == [start]
    assert len(caplog.records) == 1
