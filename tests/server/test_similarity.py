from typing import Any

import numpy as np
import pytest
from inline_snapshot import snapshot
from tests.server.fakes import FakeEngine, ask, vector, word_ids
from tests.server.refusals import refusals

from beicli.model.spec import Task
from beicli.server.options import ServerOptions

PROMPTS = {"query": "w9 "}


def compare(source: str, sentences: list[str], **parameters: Any) -> list[float]:
    body: dict[str, Any] = {"inputs": {"source_sentence": source, "sentences": sentences}}
    if parameters:
        body["parameters"] = parameters
    response = ask("POST", "/similarity", engine=FakeEngine(prompts=PROMPTS), json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_answer_is_the_cosine_of_the_source_with_each_sentence() -> None:
    source = vector(word_ids(1))

    expected = [float(source @ vector(word_ids(number))) for number in (2, 3)]

    np.testing.assert_allclose(compare("w1", ["w2", "w3"]), expected, atol=1e-6)


@pytest.mark.parametrize("number", range(20))
def test_equal_texts_have_a_cosine_of_one_and_not_above(number: int) -> None:
    (cosine,) = compare(f"w{number}", [f"w{number}"])

    assert cosine == pytest.approx(1)
    assert cosine <= 1


def test_a_prompt_goes_before_all_of_them() -> None:
    assert compare("w1", ["w2"], prompt_name="query") == compare("w9 w1", ["w9 w2"])


@pytest.mark.parametrize("parameters", [{}, {"truncate": None, "prompt_name": None}])
def test_parameters_may_be_left_out_or_null(parameters: dict[str, None]) -> None:
    assert compare("w1", ["w2"], **parameters) == compare("w1", ["w2"])


def test_127_sentences_fit_beside_the_source() -> None:
    assert len(compare("w1", ["w2"] * 127)) == 127


def test_an_overlong_text_is_cut_as_the_parameters_say() -> None:
    text = " ".join(f"w{number}" for number in range(20))

    (from_the_right,) = compare("w1", [text], truncate=True)
    (from_the_left,) = compare("w1", [text], truncation_direction="Left")

    source = vector(word_ids(1))
    assert from_the_right == pytest.approx(source @ vector(word_ids(*range(14))), abs=1e-6)
    assert from_the_left == pytest.approx(source @ vector(word_ids(*range(6, 20))), abs=1e-6)


def test_the_server_decides_about_truncation_if_the_parameters_do_not() -> None:
    response = ask(
        "POST",
        "/similarity",
        options=ServerOptions(on_too_long="error"),
        json={"inputs": {"source_sentence": "w1", "sentences": ["w1 " * 40]}},
    )

    assert response.status_code == 422


def inputs(source: Any, sentences: Any, **rest: Any) -> dict[str, Any]:
    return {"inputs": {"source_sentence": source, "sentences": sentences}, **rest}


REFUSED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a list": {"inputs": ["w1"]},
    "no source": {"inputs": {"sentences": ["w1"]}},
    "no sentences": {"inputs": {"source_sentence": "w1"}},
    "an empty list": inputs("w1", []),
    "an empty source": inputs("", ["w1"]),
    "an empty sentence": inputs("w1", ["w1", ""]),
    "a source of token ids": inputs([5], ["w1"]),
    "sentences are a text": inputs("w1", "w2"),
    "a sentence of token ids": inputs("w1", ["w2", [5]]),
    "128 sentences": inputs("w1", ["w2"] * 128),
    "too long": inputs("w1", ["w2 " * 40], parameters={"truncate": False}),
    "parameters are a list": inputs("w1", ["w2"], parameters=[]),
    "truncate is a string": inputs("w1", ["w2"], parameters={"truncate": "END"}),
    "unknown prompt": inputs("w1", ["w2"], parameters={"prompt_name": "no_such"}),
}


def test_a_bad_request_is_refused_with_the_reason_and_the_next_step() -> None:
    assert refusals("/similarity", REFUSED, engine=FakeEngine(prompts=PROMPTS)) == snapshot("""\
nothing: 422
  error: `inputs` is missing
  error_type: Validation
  hint: send {"inputs": {"source_sentence": "a text", "sentences": ["another"]}}
a list: 422
  error: `inputs` is a list; an object is wanted
  error_type: Validation
  hint: send {"inputs": {"source_sentence": "a text", "sentences": ["another"]}}
no source: 422
  error: `inputs.source_sentence` is missing
  error_type: Validation
  hint: send {"inputs": {"source_sentence": "a text", "sentences": ["another"]}}
no sentences: 422
  error: `inputs.sentences` is missing
  error_type: Validation
  hint: send {"inputs": {"source_sentence": "a text", "sentences": ["another"]}}
an empty list: 400
  error: `inputs.sentences` cannot be empty
  error_type: Empty
  hint: `inputs.sentences` is an empty list
an empty source: 400
  error: Input validation error: `inputs` cannot be empty
  error_type: Empty
  hint: input 0 is an empty string: leave it out or send a text
an empty sentence: 400
  error: Input validation error: `inputs` cannot be empty
  error_type: Empty
  hint: input 2 is an empty string: leave it out or send a text
a source of token ids: 422
  error: `inputs.source_sentence` is a list; a text is wanted
  error_type: Validation
sentences are a text: 422
  error: `inputs.sentences` is a string; a list of texts is wanted
  error_type: Validation
a sentence of token ids: 422
  error: `inputs.sentences[1]` is a list; a text is wanted
  error_type: Validation
128 sentences: 413
  error: batch size 129 > maximum allowed batch size 128
  error_type: Validation
  hint: send at most 128 inputs in a request
too long: 422
  error: Input validation error: `inputs` must have less than 16 tokens. Given: 42
  error_type: Validation
  hint: input 1 is too long; send `truncate: true` to have its end cut off, or split it
parameters are a list: 422
  error: `parameters` is a list; an object or null is wanted
  error_type: Validation
truncate is a string: 422
  error: `truncate` is a string; true, false or null is wanted
  error_type: Validation
unknown prompt: 422
  error: Input validation error: `prompt_name` is set to `no_such` but it was not found in
    the Sentence Transformers prompts. Available prompts: ['query']
  error_type: Validation
""")


def test_a_reranker_has_no_similarity() -> None:
    engine = FakeEngine(task=Task.RERANKING)

    assert refusals("/similarity", {"": inputs("w1", ["w2"])}, engine=engine) == snapshot("""\
: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a reranker: use /rerank, /v1/rerank, /v2/rerank, /predict
""")
