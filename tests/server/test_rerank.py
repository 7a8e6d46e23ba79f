"""`/rerank`: scores, their order, and every refusal."""
# ruff: noqa: E501 - refusals as they are sent

from typing import Any

import numpy as np
import ormsgpack
import pytest
from inline_snapshot import snapshot
from tests.server.fakes import (
    FIRST_WORD_ID,
    MAX_INPUT_LENGTH,
    FakeEngine,
    ask,
    logits,
    word_ids,
)

from beicli.engine.batch import Float32
from beicli.model.spec import Task
from beicli.server.options import ServerOptions

LONG = " ".join(f"w{number}" for number in range(MAX_INPUT_LENGTH))
BEST_FIRST = ServerOptions(rerank_order="score")


def rerank(
    texts: list[str],
    *,
    query: str = "w9",
    engine: FakeEngine | None = None,
    options: ServerOptions | None = None,
    **more: object,
) -> Any:
    engine = engine or FakeEngine(task=Task.RERANKING)
    body = {"query": query, "texts": texts, **more}
    response = ask("POST", "/rerank", engine=engine, options=options, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def pair_logits(texts: list[str], *, query: int = 9) -> Float32:
    """What the fake engine gives for each text of one word, before the sigmoid."""
    pairs = [[*word_ids(query), FIRST_WORD_ID + int(text[1:]), 3] for text in texts]
    return np.array([logits(ids, Task.RERANKING)[0] for ids in pairs])


def sigmoid(values: Float32) -> Float32:
    return 1 / (1 + np.exp(-values))


TEXTS = ["w1", "w2", "w3", "w4", "w5"]


def test_each_text_is_scored_with_the_query_in_the_order_of_the_texts() -> None:
    answer = rerank(TEXTS)

    assert [list(item) for item in answer] == [["index", "score"]] * 5
    assert [item["index"] for item in answer] == [0, 1, 2, 3, 4]
    scores = [item["score"] for item in answer]
    np.testing.assert_allclose(scores, sigmoid(pair_logits(TEXTS)), atol=1e-6)
    assert scores != sorted(scores, reverse=True)


def test_the_server_may_answer_best_first() -> None:
    answer = rerank(TEXTS, options=BEST_FIRST)

    assert sorted(answer, key=lambda item: item["index"]) == rerank(TEXTS)
    assert [item["index"] for item in answer] == np.argsort(-pair_logits(TEXTS)).tolist()


def test_equal_scores_keep_the_order_of_the_texts() -> None:
    answer = rerank(["w1", "w2", "w1", "w2", "w1"], options=BEST_FIRST)

    best, other = ([0, 2, 4], [1, 3])
    if pair_logits(["w2"])[0] > pair_logits(["w1"])[0]:
        best, other = other, best
    assert [item["index"] for item in answer] == best + other


def test_equal_texts_are_computed_once() -> None:
    engine = FakeEngine(task=Task.RERANKING)

    answer = rerank(["w1", "w2", "w1"], engine=engine)

    assert answer[0]["score"] == answer[2]["score"] != answer[1]["score"]
    assert engine.num_sequences == 2


def test_raw_scores_are_logits() -> None:
    answer = rerank(TEXTS, raw_scores=True)

    scores = [item["score"] for item in answer]
    np.testing.assert_allclose(scores, pair_logits(TEXTS), atol=1e-6)


def test_texts_come_back_when_asked_for() -> None:
    answer = rerank(TEXTS, options=BEST_FIRST, return_text=True)

    assert [list(item) for item in answer] == [["index", "score", "text"]] * 5
    assert [item["text"] for item in answer] == [TEXTS[item["index"]] for item in answer]


@pytest.mark.parametrize("raw_scores", [False, True])
def test_a_model_that_says_no_or_yes_ranks_by_yes(raw_scores: bool) -> None:  # noqa: FBT001 - pytest's way
    engine = FakeEngine(task=Task.CLASSIFICATION, labels=("no", "yes"), relevance_label=1)

    ranked = rerank(TEXTS, engine=engine, raw_scores=raw_scores)

    pairs = [["w9", text] for text in TEXTS]
    predicted = ask("POST", "/predict", engine=engine, json={"inputs": pairs}).json()
    yes = [{item["label"]: item["score"] for item in labels}["yes"] for labels in predicted]
    scores = np.array([item["score"] for item in ranked])
    np.testing.assert_allclose(sigmoid(scores) if raw_scores else scores, yes, atol=1e-6)


def test_messagepack_holds_what_json_holds() -> None:
    response = ask(
        "POST",
        "/rerank",
        engine=FakeEngine(task=Task.RERANKING),
        json={"query": "w9", "texts": TEXTS, "return_text": True},
        headers={"accept": "application/msgpack"},
    )

    assert response.headers["content-type"] == "application/msgpack"
    expected = rerank(TEXTS, return_text=True)
    assert ormsgpack.unpackb(response.content) == [
        {**item, "score": pytest.approx(item["score"], abs=1e-6)} for item in expected
    ]


def test_a_model_name_and_unknown_fields_are_ignored() -> None:
    assert rerank(TEXTS, model="other", top_n=1, return_text=None) == rerank(TEXTS)


def test_a_long_pair_is_cut_and_the_answer_says_so() -> None:
    body = {"query": "w9", "texts": ["w1", LONG, "w2"]}

    response = ask("POST", "/rerank", engine=FakeEngine(task=Task.RERANKING), json=body)

    assert response.headers["x-bei-truncated-inputs"] == "1"
    # [CLS] query [SEP] … [SEP] leave room for twelve of sixteen words.
    kept = [*word_ids(9), *word_ids(*range(12))[1:]]
    expected = sigmoid(logits(kept, Task.RERANKING))[0]
    assert response.json()[1]["score"] == pytest.approx(float(expected), abs=1e-6)


def test_truncation_to_the_left_keeps_the_end() -> None:
    (item,) = rerank([LONG], truncation_direction="left")

    kept = [*word_ids(9), *word_ids(*range(4, 16))[1:]]
    expected = sigmoid(logits(kept, Task.RERANKING))[0]
    assert item["score"] == pytest.approx(float(expected), abs=1e-6)


def test_the_server_may_refuse_long_pairs_unless_the_request_allows_to_cut_them() -> None:
    options = ServerOptions(on_too_long="error")
    body = {"query": "w9", "texts": [LONG]}

    refused = ask(
        "POST", "/rerank", engine=FakeEngine(task=Task.RERANKING), options=options, json=body
    )

    assert refused.status_code == 422
    assert rerank([LONG], options=options, truncate=True) == rerank([LONG])


def test_as_many_texts_as_the_server_takes_are_answered() -> None:
    answer = rerank([f"w{number}" for number in range(128)])

    assert [item["index"] for item in answer] == list(range(128))


REFUSALS: dict[str, tuple[object, str]] = {
    "no texts": (
        {"query": "w1", "texts": []},
        snapshot(
            '400 {"error":"`texts` cannot be empty","error_type":"Empty","hint":"`texts` is an empty list"}'
        ),
    ),
    "texts are missing": (
        {"query": "w1"},
        snapshot(
            '422 {"error":"`texts` is missing","error_type":"Validation","hint":"name the texts to rank: {\\"query\\": \\"a question\\", \\"texts\\": [\\"one text\\", \\"another\\"]}"}'
        ),
    ),
    "documents": (
        {"query": "w1", "documents": ["w2"]},
        snapshot(
            '422 {"error":"`texts` is missing","error_type":"Validation","hint":"`documents` was given; this route calls them `texts`, `/v2/rerank` `documents`"}'
        ),
    ),
    "texts are null": (
        {"query": "w1", "texts": None},
        snapshot(
            '422 {"error":"`texts` is null; a list of texts is wanted","error_type":"Validation"}'
        ),
    ),
    "texts are a text": (
        {"query": "w1", "texts": "w2"},
        snapshot(
            '422 {"error":"`texts` is a string; a list of texts is wanted","error_type":"Validation"}'
        ),
    ),
    "a text is a number": (
        {"query": "w1", "texts": ["w2", 3]},
        snapshot(
            '422 {"error":"`texts[1]` is an integer; a text is wanted","error_type":"Validation"}'
        ),
    ),
    "a text is a list": (
        {"query": "w1", "texts": [["w2"]]},
        snapshot(
            '422 {"error":"`texts[0]` is a list; a text is wanted","error_type":"Validation"}'
        ),
    ),
    "query is missing": (
        {"texts": ["w1"]},
        snapshot(
            '422 {"error":"`query` is missing","error_type":"Validation","hint":"send what the texts are to be ranked for: {\\"query\\": \\"a question\\", \\"texts\\": [\\"one text\\", \\"another\\"]}"}'
        ),
    ),
    "inputs": (
        {"inputs": ["w1"]},
        snapshot(
            '422 {"error":"`query` is missing","error_type":"Validation","hint":"`inputs` was given; this route ranks texts for a query: {\\"query\\": \\"a question\\", \\"texts\\": [\\"one text\\", \\"another\\"]}"}'
        ),
    ),
    "query is null": (
        {"query": None, "texts": ["w1"]},
        snapshot('422 {"error":"`query` is null; a text is wanted","error_type":"Validation"}'),
    ),
    "query is a list": (
        {"query": ["w1"], "texts": ["w1"]},
        snapshot('422 {"error":"`query` is a list; a text is wanted","error_type":"Validation"}'),
    ),
    "query is empty": (
        {"query": "", "texts": ["w1"]},
        snapshot(
            '400 {"error":"Input validation error: `query` cannot be empty","error_type":"Empty","hint":"send what the texts are to be ranked for"}'
        ),
    ),
    "too many": (
        {"query": "w1", "texts": ["w1"] * 129},
        snapshot(
            '413 {"error":"batch size 129 > maximum allowed batch size 128","error_type":"Validation","hint":"send at most 128 inputs in a request"}'
        ),
    ),
    "too long": (
        {"query": "w1", "texts": ["w1", LONG], "truncate": False},
        snapshot(
            '422 {"error":"Input validation error: `inputs` must have less than 16 tokens. Given: 20","error_type":"Validation","hint":"text 1 is too long; send `truncate: true` to have its end cut off, or split it"}'
        ),
    ),
    "raw_scores is a text": (
        {"query": "w1", "texts": ["w1"], "raw_scores": "no"},
        snapshot(
            '422 {"error":"`raw_scores` is a string; true, false or null is wanted","error_type":"Validation"}'
        ),
    ),
    "return_text is a number": (
        {"query": "w1", "texts": ["w1"], "return_text": 0},
        snapshot(
            '422 {"error":"`return_text` is an integer; true, false or null is wanted","error_type":"Validation"}'
        ),
    ),
    "not an object": (
        ["w1"],
        snapshot(
            '422 {"error":"the request body is a list; an object is wanted","error_type":"Validation","hint":"send a JSON object, such as {\\"query\\": \\"a question\\", \\"texts\\": [\\"one text\\", \\"another\\"]}"}'
        ),
    ),
}


@pytest.mark.parametrize(("body", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_request_is_refused_with_the_reason_and_the_next_step(
    body: object, expected: str
) -> None:
    response = ask("POST", "/rerank", engine=FakeEngine(task=Task.RERANKING), json=body)

    assert f"{response.status_code} {response.text}" == expected
