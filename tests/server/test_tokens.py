"""`/tokenize` and `/decode`."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from inline_snapshot import snapshot
from tests.server.fakes import FakeEngine, ask
from tests.server.refusals import refusals

from beicli.model.spec import Task
from beicli.server.openapi.responses import INFERENCE_HEADERS
from beicli.server.tokens import byte_offsets

CLS = {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None}
SEP = {"id": 3, "text": "[SEP]", "special": True, "start": None, "stop": None}
PROMPTS = {"query": "wü: "}


def tokenize(**fields: Any) -> Any:
    response = ask("POST", "/tokenize", engine=FakeEngine(prompts=PROMPTS), json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def decode(**fields: Any) -> Any:
    response = ask("POST", "/decode", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def token(token_id: int, text: str, start: int) -> dict[str, Any]:
    stop = start + len(text.encode())
    return {"id": token_id, "text": text, "special": False, "start": start, "stop": stop}


def test_tokens_come_with_their_bytes_and_special_ones_without() -> None:
    assert tokenize(inputs="w1 w2") == [[CLS, token(5, "w1", 0), token(6, "w2", 3), SEP]]


def test_offsets_count_bytes_not_characters() -> None:
    assert tokenize(inputs="ü🙂 w1") == [
        [CLS, token(1, "ü", 0), token(1, "🙂", 2), token(5, "w1", 7), SEP]
    ]


def test_special_tokens_may_be_left_out() -> None:
    assert tokenize(inputs="w1", add_special_tokens=False) == [[token(5, "w1", 0)]]


def test_a_list_of_texts_is_tokenised_in_order() -> None:
    assert tokenize(inputs=["w1", "w2"], add_special_tokens=False) == [
        [token(5, "w1", 0)],
        [token(6, "w2", 0)],
    ]


def test_an_empty_text_is_its_special_tokens() -> None:
    assert tokenize(inputs="") == [[CLS, SEP]]


def test_with_a_prompt_offsets_count_from_the_prompts_start() -> None:
    assert tokenize(inputs="w1", prompt_name="query", add_special_tokens=False) == [
        [token(1, "wü", 0), token(1, ":", 3), token(5, "w1", 5)]
    ]


def test_a_text_beyond_the_models_window_is_tokenised_whole() -> None:
    ((*_, last, _),) = tokenize(inputs="w1 " * 999 + "w2")

    assert last == token(6, "w2", 999 * 3)


@pytest.mark.parametrize("task", Task)
def test_every_kind_of_model_has_tokens(task: Task) -> None:
    response = ask("POST", "/tokenize", engine=FakeEngine(task=task), json={"inputs": "w1"})

    assert response.json() == [[CLS, token(5, "w1", 0), SEP]]


def test_no_model_is_asked_and_no_headers_speak_of_one() -> None:
    engine = FakeEngine()

    response = ask("POST", "/tokenize", engine=engine, json={"inputs": "w1"})

    assert engine.num_sequences == 0
    assert not set(response.headers) & set(INFERENCE_HEADERS)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_byte_offsets_cut_the_same_text_out_of_the_bytes(text: str, data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(text)))
    start = data.draw(st.integers(0, stop))

    ((first, last),) = byte_offsets(text, np.array([[start, stop]]))

    assert text.encode()[first:last].decode() == text[start:stop]


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        ([2, 5, 6, 3], ["w1 w2"]),
        ([[2, 5, 3], [6]], ["w1", "w2"]),
        ([[2, 3], []], ["", ""]),
    ],
)
def test_ids_become_texts(ids: object, texts: list[str]) -> None:
    assert decode(ids=ids) == texts


def test_special_tokens_may_be_kept_in_the_text() -> None:
    assert decode(ids=[2, 5, 3], skip_special_tokens=False) == ["[CLS] w1 [SEP]"]


def test_what_was_tokenised_decodes_to_the_same() -> None:
    (tokens,) = tokenize(inputs="w1 w22 w333")

    assert decode(ids=[item["id"] for item in tokens]) == ["w1 w22 w333"]


@pytest.mark.parametrize("name", ["add_special_tokens", "prompt_name", "no_such_field"])
def test_null_counts_as_left_out(name: str) -> None:
    assert tokenize(**{"inputs": "w1", name: None}) == tokenize(inputs="w1")


REFUSED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "null": {"inputs": None},
    "a number": {"inputs": 1},
    "an empty list": {"inputs": []},
    "token ids": {"inputs": [5, 6]},
    "129 texts": {"inputs": ["w1"] * 129},
    "too many characters": {"inputs": ["w1", "w" * 4001]},
    "add_special_tokens is a string": {"inputs": "w1", "add_special_tokens": "no"},
    "unknown prompt": {"inputs": "w1", "prompt_name": "no_such"},
}
REFUSED_BY_DECODE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "null": {"ids": None},
    "a text": {"ids": "w1"},
    "an empty list": {"ids": []},
    "texts": {"ids": ["w1"]},
    "an id after lists": {"ids": [[5], 6]},
    "a fraction": {"ids": [[5, 0.5]]},
    "a list after ids": {"ids": [5, [6]]},
    "a foreign token": {"ids": [[5], [4000]]},
    "129 lists": {"ids": [[5]] * 129},
    "skip_special_tokens is a number": {"ids": [5], "skip_special_tokens": 0},
}


def test_a_bad_request_to_tokenize_is_refused_with_the_reason_and_the_next_step() -> None:
    assert refusals("/tokenize", REFUSED, engine=FakeEngine(prompts=PROMPTS)) == snapshot("""\
nothing: 422
  error: `inputs` is missing
  error_type: Validation
  hint: send {"inputs": "some text"}
null: 422
  error: `inputs` is null; a text or a list of texts is wanted
  error_type: Validation
a number: 422
  error: `inputs` is an integer; a text or a list of texts is wanted
  error_type: Validation
an empty list: 400
  error: `inputs` cannot be empty
  error_type: Empty
  hint: `inputs` is an empty list
token ids: 422
  error: `inputs[0]` is an integer; a text is wanted
  error_type: Validation
129 texts: 413
  error: batch size 129 > maximum allowed batch size 128
  error_type: Validation
  hint: send at most 128 inputs in a request
too many characters: 422
  error: Input validation error: `inputs` must have less than 4000 characters. Given: 4001
  error_type: Validation
  hint: input 1 is too long: split it
add_special_tokens is a string: 422
  error: `add_special_tokens` is a string; true, false or null is wanted
  error_type: Validation
unknown prompt: 422
  error: Input validation error: `prompt_name` is set to `no_such` but it was not found in
    the Sentence Transformers prompts. Available prompts: ['query']
  error_type: Validation
""")


def test_a_bad_request_to_decode_is_refused_with_the_reason_and_the_next_step() -> None:
    assert refusals("/decode", REFUSED_BY_DECODE) == snapshot("""\
nothing: 422
  error: `ids` is missing
  error_type: Validation
  hint: send {"ids": [101, 7592, 102]}
null: 422
  error: `ids` is null; a list of token ids, or a list of those is wanted
  error_type: Validation
a text: 422
  error: `ids` is a string; a list of token ids, or a list of those is wanted
  error_type: Validation
an empty list: 400
  error: `ids` cannot be empty
  error_type: Empty
  hint: `ids` is an empty list
texts: 422
  error: `ids[0]` is a string; a list of token ids holds integers only
  error_type: Validation
an id after lists: 422
  error: `ids[1]` is an integer; a list of token ids is wanted
  error_type: Validation
a fraction: 422
  error: `ids[0][1]` is a floating-point number; a list of token ids holds integers only
  error_type: Validation
a list after ids: 422
  error: `ids[1]` is a list; a list of token ids holds integers only
  error_type: Validation
a foreign token: 422
  error: Input validation error: token id 4000 of input 1 is not in this model's vocabulary
    of 3004 tokens
  error_type: Validation
  hint: token ids must come from this model's own tokenizer; send the text instead
129 lists: 413
  error: batch size 129 > maximum allowed batch size 128
  error_type: Validation
  hint: send at most 128 inputs in a request
skip_special_tokens is a number: 422
  error: `skip_special_tokens` is an integer; true, false or null is wanted
  error_type: Validation
""")
