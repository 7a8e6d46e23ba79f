"""`/predict_tokens`: labels of tokens, entities, and every refusal."""
# ruff: noqa: E501 - refusals as they are sent

from typing import Any

import numpy as np
import ormsgpack
import pytest
from inline_snapshot import snapshot
from tests.server.fakes import (
    FIRST_WORD_ID,
    LABELS,
    MAX_INPUT_LENGTH,
    FakeEngine,
    ask,
    token_rows,
    word_ids,
)

from beicli.model.spec import Task
from beicli.server.options import ServerOptions

NER = Task.TOKEN_CLASSIFICATION
LONG = " ".join(f"w{number}" for number in range(MAX_INPUT_LENGTH))


def predict_tokens(
    inputs: object, *, options: ServerOptions | None = None, **more: object
) -> list[list[dict[str, Any]]]:
    response = ask(
        "POST",
        "/predict_tokens",
        engine=FakeEngine(task=NER),
        options=options,
        json={"inputs": inputs, **more},
    )
    assert response.status_code == 200, response.text
    answer: list[list[dict[str, Any]]] = response.json()
    return answer


def label_of(number: int) -> str:
    """The fake's label of the word w1 for number 1, whatever stands around it."""
    return LABELS[NER][token_rows([FIRST_WORD_ID + number], NER)[0].argmax()]


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [
        ("w1 w2", ["w1 w2"]),
        (["w1 w2"], ["w1 w2"]),
        (["w1", "w2"], ["w1", "w2"]),
        ([["w1"], ["w2"]], ["w1", "w2"]),
        ([["w1", "w2"], ["w3"]], ["w1", "w2", "w3"]),
        (["w1", ["w2", "w3"]], ["w1", "w2", "w3"]),
    ],
    ids=["a text", "one in a list", "two texts, no pair", "lists", "longer lists", "both"],
)
def test_there_is_one_list_for_each_text_in_order(inputs: object, texts: list[str]) -> None:
    answer = predict_tokens(inputs)

    assert len(answer) == len(texts)
    for entries, text in zip(answer, texts, strict=True):
        words = text.split()
        assert [entry["token"] for entry in entries] == ["[CLS]", *words, "[SEP]"]
        assert [entry["token_id"] for entry in entries] == word_ids(
            *(int(word[1:]) for word in words)
        )


def test_every_token_has_its_best_label_and_its_place_in_the_text() -> None:
    (entries,) = predict_tokens("w1  w22")

    assert [list(entry) for entry in entries] == [
        ["token", "token_id", "start", "end", "results"]
    ] * 4
    assert [(entry["start"], entry["end"]) for entry in entries] == [(0, 0), (0, 2), (4, 7), (0, 0)]
    rows = token_rows(word_ids(1, 22), NER).astype(np.float64)
    scores = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    for entry, row in zip(entries, scores, strict=True):
        label = LABELS[NER][row.argmax()]
        assert entry["results"] == {label: pytest.approx(float(row.max()), abs=1e-6)}


def test_raw_scores_are_the_logits_of_all_labels() -> None:
    (entries,) = predict_tokens("w1 w2", raw_scores=True)

    rows = token_rows(word_ids(1, 2), NER)
    assert [list(entry["results"]) for entry in entries] == [list(LABELS[NER])] * 4
    np.testing.assert_allclose([list(entry["results"].values()) for entry in entries], rows)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max", "MAX"])
def test_entities_have_a_place_and_a_label_without_its_prefix(strategy: str) -> None:
    words = [f"w{number}" for number in range(12)]

    (entries,) = predict_tokens(" ".join(words), aggregation_strategy=strategy)

    inside = [word for number, word in enumerate(words) if label_of(number) != "O"]
    assert " ".join(entry["token"] for entry in entries).split() == inside
    for entry in entries:
        assert entry["token_id"] == 0
        assert " ".join(words)[entry["start"] : entry["end"]] == entry["token"]
        ((label, score),) = entry["results"].items()
        assert label in {"PER", "LOC"}
        assert 0 < score <= 1


def test_without_an_aggregation_strategy_tokens_stand_by_themselves() -> None:
    expected = predict_tokens("w1 w2", aggregation_strategy="none")

    assert predict_tokens("w1 w2", aggregation_strategy=None) == expected
    assert predict_tokens("w1 w2", model="other", unknown=1) == expected


def test_a_text_without_entities_has_an_empty_list() -> None:
    outside = next(number for number in range(100) if label_of(number) == "O")

    assert predict_tokens([f"w{outside}"], aggregation_strategy="max") == [[]]


def test_characters_beyond_ascii_count_as_one() -> None:
    text = "née 🎻🏽 w1"

    (entries,) = predict_tokens(text)

    assert [(entry["start"], entry["end"]) for entry in entries[1:-1]] == [(0, 3), (4, 6), (7, 9)]
    assert [entry["token"] for entry in entries[1:-1]] == text.split()


def test_messagepack_holds_what_json_holds() -> None:
    response = ask(
        "POST",
        "/predict_tokens",
        engine=FakeEngine(task=NER),
        json={"inputs": [["w1 w2"]]},
        headers={"accept": "application/msgpack"},
    )

    assert response.headers["content-type"] == "application/msgpack"
    assert ormsgpack.unpackb(response.content) == predict_tokens("w1 w2")


def test_a_long_text_is_cut_and_the_answer_says_so() -> None:
    response = ask(
        "POST", "/predict_tokens", engine=FakeEngine(task=NER), json={"inputs": [LONG, "w1"]}
    )

    assert [len(entries) for entries in response.json()] == [MAX_INPUT_LENGTH, 3]
    assert response.headers["x-bei-truncated-inputs"] == "1"


def test_truncation_to_the_left_keeps_the_end_and_its_places() -> None:
    (entries,) = predict_tokens(LONG, truncation_direction="left")

    assert [entry["token"] for entry in entries[1:-1]] == LONG.split()[2:]
    assert entries[1]["start"] == LONG.index("w2")


@pytest.mark.parametrize(
    ("more", "options"),
    [({"truncate": False}, ServerOptions()), ({}, ServerOptions(on_too_long="error"))],
    ids=["the request says so", "the server says so"],
)
def test_a_text_that_is_not_to_be_cut_is_read_whole(
    more: dict[str, object], options: ServerOptions
) -> None:
    (entries,) = predict_tokens(LONG, options=options, **more)

    assert [entry["token"] for entry in entries[1:-1]] == LONG.split()


def test_as_many_texts_as_the_server_takes_are_answered() -> None:
    assert len(predict_tokens([["w1", "w2"]] * 64)) == 128


REFUSALS: dict[str, tuple[object, str]] = {
    "an empty list": (
        {"inputs": []},
        snapshot(
            '400 {"error":"`inputs` cannot be empty","error_type":"Empty","hint":"`inputs` is an empty list"}'
        ),
    ),
    "an empty list in the list": (
        {"inputs": [["w1"], []]},
        snapshot(
            '400 {"error":"`inputs` cannot be empty","error_type":"Empty","hint":"`inputs[1]` is an empty list"}'
        ),
    ),
    "an empty text": (
        {"inputs": ["w1", ""]},
        snapshot(
            '400 {"error":"Input validation error: `inputs` cannot be empty","error_type":"Empty","hint":"input 1 is an empty string: leave it out or send a text"}'
        ),
    ),
    "no inputs": (
        {},
        snapshot(
            '422 {"error":"`inputs` is missing","error_type":"Validation","hint":"name the texts to read: {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
    "inputs are null": (
        {"inputs": None},
        snapshot(
            '422 {"error":"`inputs` is null; a text or a list is wanted","error_type":"Validation","hint":"send {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
    "inputs are an object": (
        {"inputs": {"text": "w1"}},
        snapshot(
            '422 {"error":"`inputs` is an object; a text or a list is wanted","error_type":"Validation","hint":"send {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
    "token ids": (
        {"inputs": [5, 6]},
        snapshot(
            '422 {"error":"`inputs[0]` is an integer; a text or a list of texts is wanted","error_type":"Validation"}'
        ),
    ),
    "a number in a list": (
        {"inputs": [["w1"], ["w2", 3]]},
        snapshot(
            '422 {"error":"`inputs[1][1]` is an integer; a text is wanted","error_type":"Validation"}'
        ),
    ),
    "lists too deep": (
        {"inputs": [[["w1"]]]},
        snapshot(
            '422 {"error":"`inputs[0][0]` is a list; a text is wanted","error_type":"Validation"}'
        ),
    ),
    "too many": (
        {"inputs": [["w1"] * 43] * 3},
        snapshot(
            '413 {"error":"batch size 129 > maximum allowed batch size 128","error_type":"Validation","hint":"send at most 128 inputs in a request"}'
        ),
    ),
    "no such strategy": (
        {"inputs": "w1", "aggregation_strategy": "best"},
        snapshot(
            '422 {"error":"`aggregation_strategy` is `best`; `none`, `simple`, `first`, `average` or `max` is wanted","error_type":"Validation"}'
        ),
    ),
    "the strategy is true": (
        {"inputs": "w1", "aggregation_strategy": True},
        snapshot(
            '422 {"error":"`aggregation_strategy` is true; `none`, `simple`, `first`, `average` or `max` is wanted","error_type":"Validation"}'
        ),
    ),
    "raw_scores is a text": (
        {"inputs": "w1", "raw_scores": "true"},
        snapshot(
            '422 {"error":"`raw_scores` is a string; true, false or null is wanted","error_type":"Validation"}'
        ),
    ),
    "not an object": (
        "w1",
        snapshot(
            '422 {"error":"the request body is a string; an object is wanted","error_type":"Validation","hint":"send a JSON object, such as {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
}


@pytest.mark.parametrize(("body", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_request_is_refused_with_the_reason_and_the_next_step(
    body: object, expected: str
) -> None:
    response = ask("POST", "/predict_tokens", engine=FakeEngine(task=NER), json=body)

    assert f"{response.status_code} {response.text}" == expected
