"""`/predict`: what each shape of `inputs` asks, what comes back, and every refusal."""
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
    logits,
    word_ids,
)

from beicli.engine.batch import Float32
from beicli.model.spec import Task
from beicli.server.options import ServerOptions

JOY_ANGER_FEAR = LABELS[Task.CLASSIFICATION]
LONG = " ".join(f"w{number}" for number in range(MAX_INPUT_LENGTH))
MSGPACK = {"accept": "application/msgpack"}


def predict(
    inputs: object,
    *,
    engine: FakeEngine | None = None,
    options: ServerOptions | None = None,
    **more: object,
) -> Any:
    engine = engine or FakeEngine(task=Task.CLASSIFICATION)
    response = ask(
        "POST", "/predict", engine=engine, options=options, json={"inputs": inputs, **more}
    )
    assert response.status_code == 200, response.text
    return response.json()


def pair_ids(first: int, second: int) -> list[int]:
    return [*word_ids(first), FIRST_WORD_ID + second, 3]


def softmax(values: Float32) -> Float32:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum()


def scores_of(answer: list[dict[str, Any]]) -> list[float]:
    """The scores by label, in the model's order of labels."""
    by_label = {item["label"]: item["score"] for item in answer}
    return [by_label[label] for label in JOY_ANGER_FEAR]


@pytest.mark.parametrize(
    ("inputs", "ids"),
    [("w1", word_ids(1)), (["w1"], word_ids(1)), (["w1", "w2"], pair_ids(1, 2))],
    ids=["a text", "a list of one text", "a list of two texts is a pair"],
)
def test_one_text_or_pair_is_answered_with_one_list(inputs: object, ids: list[int]) -> None:
    answer = predict(inputs)

    np.testing.assert_allclose(scores_of(answer), softmax(logits(ids)), atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "batch"),
    [
        ([["w1"]], [word_ids(1)]),
        ([["w1"], ["w2"]], [word_ids(1), word_ids(2)]),
        ([["w9", "w1"], ["w9", "w2"]], [pair_ids(9, 1), pair_ids(9, 2)]),
        ([["w1"], ["w9", "w2"], ["w3"]], [word_ids(1), pair_ids(9, 2), word_ids(3)]),
    ],
    ids=["one text", "texts", "pairs", "both"],
)
def test_a_batch_is_answered_with_a_list_for_each(inputs: object, batch: list[list[int]]) -> None:
    answer = predict(inputs)

    expected = [softmax(logits(ids)) for ids in batch]
    np.testing.assert_allclose([scores_of(item) for item in answer], expected, atol=1e-6)


def test_every_label_is_answered_best_first_with_its_score_before_its_name() -> None:
    answer = predict([["w1"], ["w2"], ["w3"], ["w4"]])

    for labels in answer:
        assert {item["label"] for item in labels} == set(JOY_ANGER_FEAR)
        assert [list(item) for item in labels] == [["score", "label"]] * 3
        scores = [item["score"] for item in labels]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
    # The fake's answers do not all have the same winner.
    assert len({labels[0]["label"] for labels in answer}) > 1


def test_raw_scores_are_logits_also_best_first() -> None:
    answer = predict("w1", raw_scores=True)

    np.testing.assert_allclose(scores_of(answer), logits(word_ids(1)), atol=1e-6)
    assert answer[0]["score"] == max(item["score"] for item in answer)


@pytest.mark.parametrize("raw_scores", [True, False])
def test_a_model_with_one_label_answers_its_score_alone(raw_scores: bool) -> None:  # noqa: FBT001 - pytest's way
    engine = FakeEngine(task=Task.RERANKING, labels=("only",), relevance_label=0)

    ((item,),) = predict([["w1", "w2"]], engine=engine, raw_scores=raw_scores)

    logit = logits(pair_ids(1, 2), Task.RERANKING)[0]
    expected = logit if raw_scores else 1 / (1 + np.exp(-logit))
    assert item == {"score": pytest.approx(float(expected), abs=1e-6), "label": "only"}


def test_labels_keep_their_own_order_where_scores_are_equal() -> None:
    class IndifferentEngine(FakeEngine):
        def _pooled(self, sequences: list[list[int]]) -> Float32:
            return np.zeros((len(sequences), 3), np.float32)

    answer = predict("w1", engine=IndifferentEngine(task=Task.CLASSIFICATION))

    assert [item["label"] for item in answer] == list(JOY_ANGER_FEAR)


def test_scores_are_written_without_digits_float32_does_not_have() -> None:
    engine = FakeEngine(task=Task.CLASSIFICATION)

    response = ask("POST", "/predict", engine=engine, json={"inputs": "w1"})

    assert response.text == snapshot(
        '[{"score":0.6881736,"label":"fear"},{"score":0.23049942,"label":"joy"},'
        '{"score":0.081327,"label":"anger"}]'
    )


def test_messagepack_holds_what_json_holds() -> None:
    engine = FakeEngine(task=Task.CLASSIFICATION)
    body = {"inputs": [["w1"], ["w2", "w3"]]}

    as_json = ask("POST", "/predict", engine=engine, json=body)
    as_msgpack = ask("POST", "/predict", engine=engine, json=body, headers=MSGPACK)

    assert as_msgpack.headers["content-type"] == "application/msgpack"
    unpacked = ormsgpack.unpackb(as_msgpack.content)
    for packed, written in zip(unpacked, as_json.json(), strict=True):
        assert [item["label"] for item in packed] == [item["label"] for item in written]
        np.testing.assert_allclose(scores_of(packed), scores_of(written), atol=1e-6)


def test_a_model_name_and_unknown_fields_are_ignored() -> None:
    assert predict("w1", model="other", top_k=1, raw_scores=None) == predict("w1")


@pytest.mark.parametrize("truncate", [{}, {"truncate": None}, {"truncate": True}])
def test_a_long_text_is_cut_and_the_answer_says_so(truncate: dict[str, object]) -> None:
    response = ask(
        "POST",
        "/predict",
        engine=FakeEngine(task=Task.CLASSIFICATION),
        json={"inputs": [[LONG], ["w1"]], **truncate},
    )

    kept = word_ids(*range(MAX_INPUT_LENGTH - 2))
    np.testing.assert_allclose(scores_of(response.json()[0]), softmax(logits(kept)), atol=1e-6)
    assert response.headers["x-bei-truncated-inputs"] == "1"


def test_truncation_to_the_left_keeps_the_end() -> None:
    answer = predict(LONG, truncation_direction="Left")

    kept = word_ids(*range(2, MAX_INPUT_LENGTH))
    np.testing.assert_allclose(scores_of(answer), softmax(logits(kept)), atol=1e-6)


def test_the_server_may_refuse_long_texts_unless_the_request_allows_to_cut_them() -> None:
    options = ServerOptions(on_too_long="error")
    engine = FakeEngine(task=Task.CLASSIFICATION)

    refused = ask("POST", "/predict", engine=engine, options=options, json={"inputs": LONG})

    assert refused.status_code == 422
    assert predict(LONG, options=options, truncate=True) == predict(LONG)


def test_as_many_inputs_as_the_server_takes_are_answered() -> None:
    assert len(predict([["w1"], ["w2", "w3"]] * 64)) == 128


REFUSALS: dict[str, tuple[object, str]] = {
    "three texts in a flat list": (
        {"inputs": ["a", "b", "c"]},
        snapshot(
            '422 {"error":"invalid length 3, expected a string, a pair of strings [string, string] or a batch of mixed strings and pairs [[string], [string, string], ...]","error_type":"Validation","hint":"`inputs` is a list of 3; a flat list is one text or one pair; send several texts as [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "an empty list": (
        {"inputs": []},
        snapshot(
            '422 {"error":"invalid length 0, expected a string, a pair of strings [string, string] or a batch of mixed strings and pairs [[string], [string, string], ...]","error_type":"Validation","hint":"`inputs` is an empty list; a flat list is one text or one pair; send several texts as [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "three texts in a list of the batch": (
        {"inputs": [["a"], ["b", "c", "d"]]},
        snapshot(
            '422 {"error":"invalid length 3, expected a string, a pair of strings [string, string] or a batch of mixed strings and pairs [[string], [string, string], ...]","error_type":"Validation","hint":"`inputs[1]` is a list of 3; in a batch every text stands in a list of its own, as in [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "an empty list in the batch": (
        {"inputs": [["a"], []]},
        snapshot(
            '422 {"error":"invalid length 0, expected a string, a pair of strings [string, string] or a batch of mixed strings and pairs [[string], [string, string], ...]","error_type":"Validation","hint":"`inputs[1]` is an empty list; in a batch every text stands in a list of its own, as in [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "a text beside lists": (
        {"inputs": [["a"], "b"]},
        snapshot(
            '422 {"error":"`inputs[1]` is a string; a list of one text or two is wanted","error_type":"Validation","hint":"in a batch every text stands in a list of its own, as in [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "a list beside a text": (
        {"inputs": ["a", ["b"]]},
        snapshot(
            '422 {"error":"`inputs[1]` is a list; a text is wanted","error_type":"Validation","hint":"a flat list is one text or one pair; send several texts as [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "lists too deep": (
        {"inputs": [[["a"]]]},
        snapshot(
            '422 {"error":"`inputs[0][0]` is a list; a text is wanted","error_type":"Validation","hint":"in a batch every text stands in a list of its own, as in [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "a number": (
        {"inputs": 5},
        snapshot(
            '422 {"error":"`inputs` is an integer; a text or a list is wanted","error_type":"Validation","hint":"send {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
    "token ids": (
        {"inputs": [1, 2]},
        snapshot(
            '422 {"error":"`inputs[0]` is an integer; a list of one text or two is wanted","error_type":"Validation","hint":"in a batch every text stands in a list of its own, as in [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "null in the batch": (
        {"inputs": [["a"], [None]]},
        snapshot(
            '422 {"error":"`inputs[1][0]` is null; a text is wanted","error_type":"Validation","hint":"in a batch every text stands in a list of its own, as in [[\\"a\\"], [\\"b\\"]]"}'
        ),
    ),
    "no inputs": (
        {"model": "tiny"},
        snapshot(
            '422 {"error":"`inputs` is missing","error_type":"Validation","hint":"name the texts to classify: {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
    "inputs are null": (
        {"inputs": None},
        snapshot(
            '422 {"error":"`inputs` is null; a text or a list is wanted","error_type":"Validation","hint":"send {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
    "an empty text": (
        {"inputs": ""},
        snapshot(
            '400 {"error":"Input validation error: `inputs` cannot be empty","error_type":"Empty","hint":"input 0 is an empty string: leave it out or send a text"}'
        ),
    ),
    "an empty text in the batch": (
        {"inputs": [["w1"], [""]]},
        snapshot(
            '400 {"error":"Input validation error: `inputs` cannot be empty","error_type":"Empty","hint":"input 1 is an empty string: leave it out or send a text"}'
        ),
    ),
    "too many": (
        {"inputs": [["w1"]] * 129},
        snapshot(
            '413 {"error":"batch size 129 > maximum allowed batch size 128","error_type":"Validation","hint":"send at most 128 inputs in a request"}'
        ),
    ),
    "too long": (
        {"inputs": [["w1"], [LONG]], "truncate": False},
        snapshot(
            '422 {"error":"Input validation error: `inputs` must have less than 16 tokens. Given: 18","error_type":"Validation","hint":"input 1 is too long; send `truncate: true` to have its end cut off, or split it"}'
        ),
    ),
    "raw_scores is a number": (
        {"inputs": "w1", "raw_scores": 1},
        snapshot(
            '422 {"error":"`raw_scores` is an integer; true, false or null is wanted","error_type":"Validation"}'
        ),
    ),
    "truncate is a text": (
        {"inputs": "w1", "truncate": "yes"},
        snapshot(
            '422 {"error":"`truncate` is a string; true, false or null is wanted","error_type":"Validation"}'
        ),
    ),
    "no such direction": (
        {"inputs": "w1", "truncation_direction": "middle"},
        snapshot(
            '422 {"error":"`truncation_direction` is `middle`; `left` or `right` is wanted","error_type":"Validation"}'
        ),
    ),
    "not an object": (
        [["w1"]],
        snapshot(
            '422 {"error":"the request body is a list; an object is wanted","error_type":"Validation","hint":"send a JSON object, such as {\\"inputs\\": [[\\"one text\\"], [\\"another\\"]]}"}'
        ),
    ),
}


@pytest.mark.parametrize(("body", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_request_is_refused_with_the_reason_and_the_next_step(
    body: object, expected: str
) -> None:
    response = ask("POST", "/predict", engine=FakeEngine(task=Task.CLASSIFICATION), json=body)

    assert f"{response.status_code} {response.text}" == expected


def test_an_input_the_engine_fails_on_is_the_engines_fault() -> None:
    engine = FakeEngine(task=Task.CLASSIFICATION, poison_id=FIRST_WORD_ID + 5)

    response = ask("POST", "/predict", engine=engine, json={"inputs": [["w1"], ["w5"]]})

    assert f"{response.status_code} {response.text}" == snapshot(
        '424 {"error":"the engine could not compute input 1: RuntimeError","error_type":"Backend","hint":"the server\'s log has the details"}'
    )
