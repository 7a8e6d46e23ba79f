"""`/v1/rerank` and `/v2/rerank` in Cohere's and Jina's shape, and every refusal."""
# ruff: noqa: E501 - refusals as they are sent

import uuid
from typing import Any

import pytest
from inline_snapshot import snapshot
from tests.server.fakes import MAX_INPUT_LENGTH, FakeEngine, ask

from beicli.model.spec import Task
from beicli.server.options import ServerOptions

LONG = " ".join(f"w{number}" for number in range(MAX_INPUT_LENGTH))
DOCUMENTS = ["w1", "w2", "w3", "w4", "w5"]
PATHS = pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])


def rerank(documents: list[Any], *, path: str = "/v2/rerank", **more: object) -> dict[str, Any]:
    body = {"model": "any", "query": "w9", "documents": documents, **more}
    response = ask("POST", path, engine=FakeEngine(task=Task.RERANKING), json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def tei_scores(texts: list[str]) -> list[float]:
    body = {"query": "w9", "texts": texts}
    response = ask("POST", "/rerank", engine=FakeEngine(task=Task.RERANKING), json=body)
    return [item["score"] for item in response.json()]


@PATHS
def test_documents_come_best_first_with_the_scores_of_rerank(path: str) -> None:
    results = rerank(DOCUMENTS, path=path)["results"]

    scores = tei_scores(DOCUMENTS)
    order = sorted(range(5), key=lambda index: -scores[index])
    assert order != [0, 1, 2, 3, 4]
    assert results == [{"index": index, "relevance_score": scores[index]} for index in order]


@pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2")])
def test_one_answer_has_the_keys_of_cohere_and_of_jina(path: str, version: str) -> None:
    answer = rerank(["w1", "w2"], path=path)

    assert str(uuid.UUID(answer.pop("id"))) != rerank(["w1", "w2"], path=path)["id"]
    assert len(answer.pop("results")) == 2
    assert answer == {
        "model": "tiny",
        "usage": {"prompt_tokens": 10, "total_tokens": 10},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": 10, "output_tokens": 0},
        },
    }


def test_more_than_100_documents_are_two_search_units() -> None:
    answer = rerank([f"w{number}" for number in range(101)])

    assert answer["meta"]["billed_units"] == {"search_units": 2}


@pytest.mark.parametrize(("top_n", "num_results"), [(1, 1), (3, 3), (5, 5), (99, 5), (None, 5)])
def test_top_n_keeps_the_best(top_n: int | None, num_results: int) -> None:
    kept = rerank(DOCUMENTS, top_n=top_n)["results"]

    assert kept == rerank(DOCUMENTS)["results"][:num_results]


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    results = rerank(["w1"] * 4)["results"]

    assert [item["index"] for item in results] == [0, 1, 2, 3]


def test_documents_may_be_objects_with_a_text() -> None:
    mixed = [{"text": "w1"}, "w2", {"text": "w3", "id": 7}, {"title": "t", "text": "w4"}, "w5"]

    assert rerank(mixed)["results"] == rerank(DOCUMENTS)["results"]
    assert rerank(mixed, rank_fields=["text"])["results"] == rerank(DOCUMENTS)["results"]


def test_documents_come_back_as_objects_when_asked_for() -> None:
    results = rerank(["w1", {"text": "w2"}], return_documents=True)["results"]

    by_index = {item["index"]: item["document"] for item in results}
    assert by_index == {0: {"text": "w1"}, 1: {"text": "w2"}}


def test_max_tokens_per_doc_reads_the_start_of_each_document_but_returns_all_of_it() -> None:
    whole = ["w1 w2 w3 w4", "w5", "w6  w7"]

    limited = rerank(whole, max_tokens_per_doc=2, return_documents=True)["results"]

    expected = rerank(["w1 w2", "w5", "w6 w7"])["results"]
    assert [(item["index"], item["relevance_score"]) for item in limited] == [
        (item["index"], item["relevance_score"]) for item in expected
    ]
    assert {item["index"]: item["document"]["text"] for item in limited} == dict(enumerate(whole))


def test_a_max_tokens_per_doc_beyond_all_documents_changes_nothing() -> None:
    assert rerank(DOCUMENTS, max_tokens_per_doc=4096)["results"] == rerank(DOCUMENTS)["results"]


def test_unknown_fields_are_ignored() -> None:
    answer = rerank(DOCUMENTS, priority=3, max_chunks_per_doc=10, user="me")

    assert answer["results"] == rerank(DOCUMENTS)["results"]


def test_a_long_document_is_cut_unless_the_server_or_the_request_says_no() -> None:
    engine = FakeEngine(task=Task.RERANKING)
    body = {"query": "w9", "documents": [LONG]}
    strict = ServerOptions(on_too_long="error")

    cut = ask("POST", "/v2/rerank", engine=engine, json=body)
    refused = ask("POST", "/v2/rerank", engine=engine, json=body, options=strict)
    allowed = ask(
        "POST", "/v2/rerank", engine=engine, json={**body, "truncate": True}, options=strict
    )

    assert cut.headers["x-bei-truncated-inputs"] == "1"
    assert f"{refused.status_code} {refused.text}" == snapshot(
        '422 {"error":{"message":"Input validation error: `inputs` must have less than 16 tokens. Given: 20","type":"invalid_request_error","param":"documents","code":"invalid_value","hint":"text 0 is too long; send `truncate: true` to have its end cut off, or split it"}}'
    )
    assert allowed.json()["results"] == cut.json()["results"]


def body(**more: object) -> dict[str, object]:
    return {"model": "any", "query": "w1", "documents": ["w1", "w2"], **more}


REFUSALS: dict[str, tuple[object, str]] = {
    "no documents": (
        body(documents=[]),
        snapshot(
            '400 {"error":{"message":"`documents` cannot be empty","type":"invalid_request_error","param":"documents","code":"empty_input","hint":"`documents` is an empty list"}}'
        ),
    ),
    "documents are missing": (
        {"query": "w1"},
        snapshot(
            '422 {"error":{"message":"`documents` is missing","type":"invalid_request_error","param":"documents","code":"invalid_value","hint":"name the texts to rank: {\\"model\\": \\"any\\", \\"query\\": \\"a question\\", \\"documents\\": [\\"one text\\", \\"another\\"]}"}}'
        ),
    ),
    "texts": (
        {"query": "w1", "texts": ["w1"]},
        snapshot(
            '422 {"error":{"message":"`documents` is missing","type":"invalid_request_error","param":"documents","code":"invalid_value","hint":"`texts` was given; this route calls them `documents`, `/rerank` calls them `texts`"}}'
        ),
    ),
    "documents are a text": (
        body(documents="w1"),
        snapshot(
            '422 {"error":{"message":"`documents` is a string; a list of documents is wanted","type":"invalid_request_error","param":"documents","code":"invalid_value"}}'
        ),
    ),
    "a document is a number": (
        body(documents=["w1", 2]),
        snapshot(
            '422 {"error":{"message":"`documents[1]` is an integer; a text or an object such as {\\"text\\": \\"some text\\"} is wanted","type":"invalid_request_error","param":"documents","code":"invalid_value"}}'
        ),
    ),
    "a document has no text": (
        body(documents=[{"image": "x"}]),
        snapshot(
            '422 {"error":{"message":"`documents[0]` has no `text`; a text or an object such as {\\"text\\": \\"some text\\"} is wanted","type":"invalid_request_error","param":"documents","code":"invalid_value","hint":"of an object `text` is read and nothing else"}}'
        ),
    ),
    "a document's text is null": (
        body(documents=["w1", {"text": None}]),
        snapshot(
            '422 {"error":{"message":"`documents[1].text` is null; a text is wanted","type":"invalid_request_error","param":"documents","code":"invalid_value"}}'
        ),
    ),
    "query is missing": (
        {"documents": ["w1"]},
        snapshot(
            '422 {"error":{"message":"`query` is missing","type":"invalid_request_error","param":"query","code":"invalid_value","hint":"send what the documents are to be ranked for: {\\"model\\": \\"any\\", \\"query\\": \\"a question\\", \\"documents\\": [\\"one text\\", \\"another\\"]}"}}'
        ),
    ),
    "query is an object": (
        body(query={"text": "w1"}),
        snapshot(
            '422 {"error":{"message":"`query` is an object; a text is wanted","type":"invalid_request_error","param":"query","code":"invalid_value"}}'
        ),
    ),
    "query is empty": (
        body(query=""),
        snapshot(
            '400 {"error":{"message":"Input validation error: `query` cannot be empty","type":"invalid_request_error","param":"query","code":"empty_input","hint":"send what the texts are to be ranked for"}}'
        ),
    ),
    "top_n is 0": (
        body(top_n=0),
        snapshot(
            '422 {"error":{"message":"`top_n` is 0; 1 or more is wanted","type":"invalid_request_error","param":"top_n","code":"invalid_value","hint":"leave it out to get all documents"}}'
        ),
    ),
    "top_n is negative": (
        body(top_n=-1),
        snapshot(
            '422 {"error":{"message":"`top_n` is -1; 1 or more is wanted","type":"invalid_request_error","param":"top_n","code":"invalid_value","hint":"leave it out to get all documents"}}'
        ),
    ),
    "top_n is a fraction": (
        body(top_n=1.5),
        snapshot(
            '422 {"error":{"message":"`top_n` is a floating-point number; an integer or null is wanted","type":"invalid_request_error","param":"top_n","code":"invalid_value","hint":"leave it out to get all documents"}}'
        ),
    ),
    "top_n is true": (
        body(top_n=True),
        snapshot(
            '422 {"error":{"message":"`top_n` is true; an integer or null is wanted","type":"invalid_request_error","param":"top_n","code":"invalid_value","hint":"leave it out to get all documents"}}'
        ),
    ),
    "max_tokens_per_doc is 0": (
        body(max_tokens_per_doc=0),
        snapshot(
            '422 {"error":{"message":"`max_tokens_per_doc` is 0; 1 or more is wanted","type":"invalid_request_error","param":"max_tokens_per_doc","code":"invalid_value","hint":"leave it out to use the model\'s whole window"}}'
        ),
    ),
    "return_documents is a text": (
        body(return_documents="yes"),
        snapshot(
            '422 {"error":{"message":"`return_documents` is a string; true, false or null is wanted","type":"invalid_request_error","param":"return_documents","code":"invalid_value"}}'
        ),
    ),
    "other rank fields": (
        body(rank_fields=["title", "text"]),
        snapshot(
            '422 {"error":{"message":"`rank_fields` names something other than `text`, the only field that is read here","type":"invalid_request_error","param":"rank_fields","code":"invalid_value","hint":"write what is to be ranked into `text`, and leave `rank_fields` out"}}'
        ),
    ),
    "rank_fields is a text": (
        body(rank_fields="text"),
        snapshot(
            '422 {"error":{"message":"`rank_fields` is a string; a list of names or null is wanted","type":"invalid_request_error","param":"rank_fields","code":"invalid_value"}}'
        ),
    ),
    "too many": (
        body(documents=["w1"] * 129),
        snapshot(
            '413 {"error":{"message":"batch size 129 > maximum allowed batch size 128","type":"invalid_request_error","param":"documents","code":"batch_too_large","hint":"send at most 128 inputs in a request"}}'
        ),
    ),
    "not an object": (
        ["w1"],
        snapshot(
            '422 {"error":{"message":"the request body is a list; an object is wanted","type":"invalid_request_error","param":null,"code":"invalid_value","hint":"send a JSON object, such as {\\"model\\": \\"any\\", \\"query\\": \\"a question\\", \\"documents\\": [\\"one text\\", \\"another\\"]}"}}'
        ),
    ),
}


@PATHS
@pytest.mark.parametrize(("sent", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_request_is_refused_with_the_reason_and_the_next_step(
    path: str, sent: object, expected: str
) -> None:
    response = ask("POST", path, engine=FakeEngine(task=Task.RERANKING), json=sent)

    assert f"{response.status_code} {response.text}" == expected
