"""`/embed_sparse`: the entries of sparse vectors, how they are written, and every refusal."""
# ruff: noqa: E501 - refusals as they are sent

from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import orjson
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from tests.server.fakes import FIRST_WORD_ID, MAX_INPUT_LENGTH, FakeEngine, ask, weights, word_ids

from beicli.model.spec import Task
from beicli.pipeline.results import SparseVector
from beicli.server.options import ServerOptions
from beicli.server.sparse import write_json

SPARSE = Task.SPARSE_EMBEDDING
LONG = " ".join(f"w{number}" for number in range(MAX_INPUT_LENGTH))
PROMPTS = {"query": "w7 "}


@st.composite
def sparse_vectors(draw: st.DrawFn) -> SparseVector:
    indices = draw(st.lists(st.integers(0, 2**31 - 1), unique=True, max_size=5))
    floats = st.floats(0, exclude_min=True, width=32, allow_infinity=False)
    values = draw(arrays.arrays(np.float32, len(indices), elements=floats))
    return SparseVector(np.array(sorted(indices), dtype=np.int32), values)


def embed_sparse(
    inputs: object, *, options: ServerOptions | None = None, **more: object
) -> list[list[dict[str, Any]]]:
    response = ask(
        "POST",
        "/embed_sparse",
        engine=FakeEngine(task=SPARSE, prompts=PROMPTS),
        options=options,
        json={"inputs": inputs, **more},
    )
    assert response.status_code == 200, response.text
    answer: list[list[dict[str, Any]]] = response.json()
    return answer


def entries(*numbers: int) -> list[dict[str, Any]]:
    """What the fake engine makes of the text `w1 w2` for numbers 1, 2."""
    counts = weights(word_ids(*numbers))
    return [{"index": int(i), "value": float(counts[i])} for i in np.flatnonzero(counts)]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("w1 w2 w1", [entries(1, 2, 1)]),
        (["w1"], [entries(1)]),
        (["w2 w1", "w3"], [entries(1, 2), entries(3)]),
        (word_ids(4, 5), [entries(4, 5)]),
        ([word_ids(4), "w5"], [entries(4), entries(5)]),
    ],
    ids=["a text", "one text in a list", "texts", "token ids", "both"],
)
def test_each_input_has_a_list_of_entries_by_ascending_index(
    inputs: object, expected: list[list[dict[str, Any]]]
) -> None:
    answer = embed_sparse(inputs)

    assert answer == expected
    assert all(list(entry) == ["index", "value"] for vector in answer for entry in vector)


def test_an_input_in_which_nothing_matters_has_no_entries() -> None:
    assert embed_sparse([[2, 3], "w1"]) == [[], entries(1)]


@given(st.lists(sparse_vectors(), max_size=3))
def test_the_joined_json_is_what_an_encoder_makes_of_the_entries(
    vectors: list[SparseVector],
) -> None:
    expected = [
        [
            {"index": index, "value": value}
            for index, value in zip(vector.indices.tolist(), vector.values, strict=True)
        ]
        for vector in vectors
    ]

    assert write_json(vectors) == orjson.dumps(expected, option=orjson.OPT_SERIALIZE_NUMPY)


def test_messagepack_holds_what_json_holds() -> None:
    response = ask(
        "POST",
        "/embed_sparse",
        engine=FakeEngine(task=SPARSE),
        json={"inputs": ["w1 w2 w1", [2, 3]]},
        headers={"accept": "application/msgpack"},
    )

    assert response.headers["content-type"] == "application/msgpack"
    assert ormsgpack.unpackb(response.content) == [entries(1, 2, 1), []]


def test_a_prompt_goes_before_the_text() -> None:
    assert embed_sparse("w1", prompt_name="query") == [entries(7, 1)]
    assert embed_sparse("w1", prompt_name=None) == [entries(1)]


def test_unknown_fields_are_ignored() -> None:
    assert embed_sparse("w1", model="other", normalize=True) == [entries(1)]


@pytest.mark.parametrize(
    ("direction", "kept"), [("Right", range(14)), ("Left", range(2, 16))], ids=["right", "left"]
)
def test_a_long_text_is_cut_at_the_end_asked_for(direction: str, kept: range) -> None:
    assert embed_sparse(LONG, truncation_direction=direction) == [entries(*kept)]


def test_the_server_may_refuse_long_texts_unless_the_request_allows_to_cut_them() -> None:
    options = ServerOptions(on_too_long="error")
    engine = FakeEngine(task=SPARSE)

    refused = ask("POST", "/embed_sparse", engine=engine, options=options, json={"inputs": LONG})

    assert refused.status_code == 422
    assert embed_sparse(LONG, options=options, truncate=True) == [entries(*range(14))]


REFUSALS: dict[str, tuple[object, str]] = {
    "an empty list": (
        {"inputs": []},
        snapshot(
            '400 {"error":"`inputs` cannot be empty","error_type":"Empty","hint":"`inputs` is an empty list"}'
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
            '422 {"error":"`inputs` is missing","error_type":"Validation","hint":"name the texts to embed, such as {\\"inputs\\": [\\"one text\\", \\"another\\"]}"}'
        ),
    ),
    "inputs are an object": (
        {"inputs": {"text": "w1"}},
        snapshot(
            '422 {"error":"`inputs` is an object; a text, a list of token ids, or a list of those is wanted","error_type":"Validation"}'
        ),
    ),
    "a null among texts": (
        {"inputs": ["w1", None]},
        snapshot(
            '422 {"error":"`inputs[1]` is null; a text or a list of token ids is wanted","error_type":"Validation"}'
        ),
    ),
    "an unknown token id": (
        {"inputs": [2, FIRST_WORD_ID + 3000, 3]},
        snapshot(
            '422 {"error":"Input validation error: token id 3004 of input 0 is not in this model\'s vocabulary of 3004 tokens","error_type":"Validation","hint":"token ids must come from this model\'s own tokenizer; send the text instead"}'
        ),
    ),
    "too many": (
        {"inputs": ["w1"] * 129},
        snapshot(
            '413 {"error":"batch size 129 > maximum allowed batch size 128","error_type":"Validation","hint":"send at most 128 inputs in a request"}'
        ),
    ),
    "too long": (
        {"inputs": ["w1", LONG], "truncate": False},
        snapshot(
            '422 {"error":"Input validation error: `inputs` must have less than 16 tokens. Given: 18","error_type":"Validation","hint":"input 1 is too long; send `truncate: true` to have its end cut off, or split it"}'
        ),
    ),
    "no such prompt": (
        {"inputs": "w1", "prompt_name": "passage"},
        snapshot(
            '422 {"error":"Input validation error: `prompt_name` is set to `passage` but it was not found in the Sentence Transformers prompts. Available prompts: [\'query\']","error_type":"Validation"}'
        ),
    ),
    "the prompt's name is a number": (
        {"inputs": "w1", "prompt_name": 1},
        snapshot(
            '422 {"error":"`prompt_name` is an integer; a string or null is wanted","error_type":"Validation"}'
        ),
    ),
    "not an object": (
        ["w1"],
        snapshot(
            '422 {"error":"the request body is a list; an object is wanted","error_type":"Validation","hint":"send a JSON object, such as {\\"inputs\\": \\"some text\\"}"}'
        ),
    ),
}


@pytest.mark.parametrize(("body", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_request_is_refused_with_the_reason_and_the_next_step(
    body: object, expected: str
) -> None:
    engine = FakeEngine(task=SPARSE, prompts=PROMPTS)

    response = ask("POST", "/embed_sparse", engine=engine, json=body)

    assert f"{response.status_code} {response.text}" == expected
