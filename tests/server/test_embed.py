"""`/embed` and `/embed_all`."""

import base64
import re
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest
from inline_snapshot import snapshot
from tests.server.fakes import (
    DIMENSION,
    FakeEngine,
    ask,
    token_rows,
    vector,
    word_ids,
)
from tests.server.refusals import refusals

from beicli.model.spec import Task
from beicli.server.options import ServerOptions

PROMPTS = {"query": "w9 ", "passage": "w8 "}


def embed(path: str = "/embed", **fields: Any) -> httpx2.Response:
    response = ask("POST", path, engine=FakeEngine(prompts=PROMPTS), json=fields)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize(
    ("sent", "computed"),
    [
        ("w1 w2", [word_ids(1, 2)]),
        (["w1"], [word_ids(1)]),
        (["w1", "w2 w3"], [word_ids(1), word_ids(2, 3)]),
        ([2, 5, 3], [[2, 5, 3]]),
        ([[5], "w1"], [[5], word_ids(1)]),
    ],
    ids=["text", "list of one", "texts", "ids", "mixed"],
)
def test_the_answer_is_a_list_of_vectors_for_a_single_input_too(
    sent: object, computed: list[list[int]]
) -> None:
    np.testing.assert_allclose(
        embed(inputs=sent).json(), [vector(ids) for ids in computed], atol=1e-6
    )


def test_vectors_have_unit_length_unless_that_is_not_wanted() -> None:
    (scaled,), (raw,) = (embed(inputs="w1", normalize=flag).json() for flag in (True, False))

    assert np.linalg.norm(scaled) == pytest.approx(1)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), scaled, atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_dimensions_keeps_the_first_ones(*, normalize: bool) -> None:
    (whole,) = embed(inputs="w1", normalize=False).json()

    (row,) = embed(inputs="w1", dimensions=3, normalize=normalize).json()

    length = np.linalg.norm(whole[:3]) if normalize else 1
    np.testing.assert_allclose(row, np.array(whole[:3]) / length, atol=1e-6)


OPTIONAL = (
    "truncate truncation_direction prompt_name input_type normalize dimensions encoding_format "
    "embed_dtype endianness no_such_field"
)


@pytest.mark.parametrize("name", OPTIONAL.split())
def test_null_counts_as_left_out(name: str) -> None:
    assert embed(**{"inputs": "w1", name: None}).json() == embed(inputs="w1").json()


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/v1/embeddings"])
@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ({"prompt_name": "query"}, 9),
        ({"prompt_name": "passage"}, 8),
        ({"input_type": "search_query"}, 9),
        ({"input_type": "document"}, 8),
        ({"input_type": "clustering"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_prompt_goes_before_each_text(
    path: str, asked: dict[str, str], number: int | None
) -> None:
    name = "input" if path == "/v1/embeddings" else "inputs"
    prompt = "" if number is None else f"w{number} "

    asked_for = embed(path, **{name: ["w1", "w2 w3"]}, **asked).json()
    written = embed(path, **{name: [f"{prompt}w1", f"{prompt}w2 w3"]}).json()

    assert asked_for == written


def test_base64_holds_the_same_numbers() -> None:
    rows = embed(inputs=["w1", "w2"], encoding_format="base64").json()
    halves = embed(inputs=["w1", "w2"], encoding_format="base64", embed_dtype="float16").json()

    expected = np.array(embed(inputs=["w1", "w2"]).json(), dtype=np.float32)
    decoded = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows]
    np.testing.assert_array_equal(decoded, expected)
    decoded = [np.frombuffer(base64.b64decode(row), dtype="<f2") for row in halves]
    np.testing.assert_array_equal(decoded, expected.astype(np.float16))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_bytes_are_the_rows_and_a_header_says_what_they_are(path: str, dtype: str) -> None:
    name = "input" if path == "/v1/embeddings" else "inputs"
    sent = {name: ["w1", "w2", "w3"], "dimensions": 4}

    response = embed(path, **sent, encoding_format="bytes", embed_dtype=dtype)

    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-compute-tokens"] == "9"
    metadata = orjson.loads(response.headers["metadata"])
    assert (metadata["shape"], metadata["dtype"], metadata["endianness"]) == (
        [3, 4],
        dtype,
        "little",
    )
    rows = np.frombuffer(response.content, dtype=dtype).reshape(metadata["shape"])
    expected = np.stack([vector(word_ids(number))[:4] for number in (1, 2, 3)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, expected, atol=1e-3)


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_bytes_only_come_without_that_header(path: str) -> None:
    name = "input" if path == "/v1/embeddings" else "inputs"

    response = embed(path, **{name: "w1"}, encoding_format="bytes_only")

    assert len(response.content) == DIMENSION * 4
    assert "metadata" not in response.headers


def test_a_dtype_says_nothing_of_numbers_that_are_written_out() -> None:
    assert embed(inputs="w1", embed_dtype="float16").json() == embed(inputs="w1").json()


@pytest.mark.parametrize(
    ("direction", "kept"),
    [
        (None, word_ids(*range(14))),
        ("Right", word_ids(*range(14))),
        ("left", word_ids(*range(6, 20))),
    ],
)
def test_an_overlong_text_is_cut_at_the_end_that_is_named(
    direction: str | None, kept: list[int]
) -> None:
    text = " ".join(f"w{number}" for number in range(20))

    response = embed(inputs=text, truncate=True, truncation_direction=direction)

    np.testing.assert_allclose(response.json(), [vector(kept)], atol=1e-6)
    assert response.headers["x-bei-truncated-inputs"] == "1"


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/v1/embeddings"])
@pytest.mark.parametrize(
    ("on_too_long", "asked", "status"),
    [
        ("truncate", None, 200),
        ("truncate", False, 422),
        ("error", None, 422),
        ("error", True, 200),
    ],
)
def test_the_request_decides_about_truncation_else_the_server(
    path: str, on_too_long: str, *, asked: bool | None, status: int
) -> None:
    name = "input" if path == "/v1/embeddings" else "inputs"

    response = ask(
        "POST",
        path,
        options=ServerOptions(on_too_long=on_too_long),
        json={name: "w1 " * 40, "truncate": asked},
    )

    assert response.status_code == status


def test_embed_all_gives_the_vector_of_every_token_not_normalised() -> None:
    rows = embed("/embed_all", inputs=["w1 w2", "w3"]).json()

    assert [len(item) for item in rows] == [4, 3]
    np.testing.assert_allclose(rows[0], token_rows(word_ids(1, 2)), atol=1e-6)
    np.testing.assert_allclose(rows[1], token_rows(word_ids(3)), atol=1e-6)


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/v1/embeddings"])
def test_numbers_have_the_digits_of_float32_and_no_more(path: str) -> None:
    name = "input" if path == "/v1/embeddings" else "inputs"

    text = embed(path, **{name: "w1 w2"}).text

    digits = [number.replace(".", "").lstrip("0") for number in re.findall(r"\d+\.\d+", text)]
    assert len(digits) >= DIMENSION
    assert max(map(len, digits)) <= 9


REFUSED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "input": {"input": "w1"},
    "null": {"inputs": None},
    "a number": {"inputs": 1},
    "an empty list": {"inputs": []},
    "an empty text": {"inputs": ["w1", ""]},
    "empty token ids": {"inputs": [[5], []]},
    "129 inputs": {"inputs": ["w1"] * 129},
    "an id among texts": {"inputs": ["w1", 5]},
    "a foreign token": {"inputs": [4000]},
    "too long": {"inputs": ["w1", "w2 " * 40], "truncate": False},
    "truncate is a number": {"inputs": "w1", "truncate": 1},
    "unknown direction": {"inputs": "w1", "truncation_direction": "both"},
    "unknown prompt": {"inputs": "w1", "prompt_name": "no_such"},
    "unknown input type": {"inputs": "w1", "input_type": "image"},
    "two ways to ask for a prompt": {"inputs": "w1", "prompt_name": "query", "input_type": "query"},
    "a prompt for token ids": {"inputs": ["w1", [5]], "prompt_name": "query"},
}
REFUSED_BY_EMBED: dict[str, dict[str, Any]] = {
    "normalize is a string": {"inputs": "w1", "normalize": "yes"},
    "no dimensions": {"inputs": "w1", "dimensions": 0},
    "too many dimensions": {"inputs": "w1", "dimensions": 9},
    "unknown format": {"inputs": "w1", "encoding_format": "hex"},
    "unknown dtype": {"inputs": "w1", "embed_dtype": "int8"},
    "big-endian": {"inputs": "w1", "encoding_format": "bytes", "endianness": "big"},
}


@pytest.mark.parametrize("path", ["/embed", "/embed_all"])
def test_a_bad_request_is_refused_with_the_reason_and_the_next_step(path: str) -> None:
    engine = FakeEngine(prompts=PROMPTS)

    assert refusals(path, REFUSED, engine=engine) == snapshot("""\
nothing: 422
  error: `inputs` is missing
  error_type: Validation
  hint: name the texts to embed, such as {"inputs": ["one text", "another"]}
input: 422
  error: `inputs` is missing
  error_type: Validation
  hint: name the texts to embed, such as {"inputs": ["one text", "another"]}
null: 422
  error: `inputs` is null; a text, a list of token ids, or a list of those is wanted
  error_type: Validation
a number: 422
  error: `inputs` is an integer; a text, a list of token ids, or a list of those is wanted
  error_type: Validation
an empty list: 400
  error: `inputs` cannot be empty
  error_type: Empty
  hint: `inputs` is an empty list
an empty text: 400
  error: Input validation error: `inputs` cannot be empty
  error_type: Empty
  hint: input 1 is an empty string: leave it out or send a text
empty token ids: 400
  error: Input validation error: `inputs` cannot be empty
  error_type: Empty
  hint: input 1 is an empty list of token ids: leave it out
129 inputs: 413
  error: batch size 129 > maximum allowed batch size 128
  error_type: Validation
  hint: send at most 128 inputs in a request
an id among texts: 422
  error: `inputs[1]` is an integer; a text or a list of token ids is wanted
  error_type: Validation
a foreign token: 422
  error: Input validation error: token id 4000 of input 0 is not in this model's vocabulary
    of 3004 tokens
  error_type: Validation
  hint: token ids must come from this model's own tokenizer; send the text instead
too long: 422
  error: Input validation error: `inputs` must have less than 16 tokens. Given: 42
  error_type: Validation
  hint: input 1 is too long; send `truncate: true` to have its end cut off, or split it
truncate is a number: 422
  error: `truncate` is an integer; true, false or null is wanted
  error_type: Validation
unknown direction: 422
  error: `truncation_direction` is `both`; `left` or `right` is wanted
  error_type: Validation
unknown prompt: 422
  error: Input validation error: `prompt_name` is set to `no_such` but it was not found in
    the Sentence Transformers prompts. Available prompts: ['passage', 'query']
  error_type: Validation
unknown input type: 422
  error: `input_type` is `image`; one of search_query, query, search_document, document,
    passage, classification, clustering is wanted
  error_type: Validation
two ways to ask for a prompt: 422
  error: `prompt_name` and `input_type` are both given; one of them is wanted
  error_type: Validation
  hint: `prompt_name` is a name of the model's own prompts, `input_type` picks one of them
    by purpose
a prompt for token ids: 422
  error: Input validation error: a prompt cannot be put before token ids
  error_type: Validation
  hint: input 1 is a list of token ids: send its text, or leave the prompt out
""")


def test_embed_refuses_what_only_it_has() -> None:
    assert refusals("/embed", REFUSED_BY_EMBED) == snapshot("""\
normalize is a string: 422
  error: `normalize` is a string; true, false or null is wanted
  error_type: Validation
no dimensions: 422
  error: Input validation error: `dimensions` should be positive
  error_type: Validation
  hint: 0 was given
too many dimensions: 422
  error: Input validation error: `dimensions` should be smaller than the maximum embedding
    dimension.
  error_type: Validation
  hint: 9 was given; this model's embeddings have 8 dimensions
unknown format: 422
  error: `encoding_format` is `hex`; `float`, `base64`, `bytes` or `bytes_only` is wanted
  error_type: Validation
unknown dtype: 422
  error: `embed_dtype` is `int8`; `float32` or `float16` is wanted
  error_type: Validation
big-endian: 422
  error: `endianness` is `big`; `little` or `native` is wanted
  error_type: Validation
""")


def test_other_models_are_named_and_where_to_ask_them() -> None:
    others = [task for task in Task if task is not Task.EMBEDDING]

    assert "\n".join(
        refusals(path, {f"{task} {path}": {"inputs": "w1"}}, engine=FakeEngine(task=task))
        for path in ("/embed", "/embed_all")
        for task in others
    ) == snapshot("""\
sparse_embedding /embed: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a sparse embedding model: use /embed_sparse

classification /embed: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a classifier: use /predict

reranking /embed: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a reranker: use /rerank, /v1/rerank, /v2/rerank, /predict

token_classification /embed: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a token classifier: use /predict_tokens

sparse_embedding /embed_all: 424
  error: Backend error: `embed_all` is not available for SPLADE models
  error_type: Backend
  hint: `tiny` is a sparse embedding model: use /embed_sparse

classification /embed_all: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a classifier: use /predict

reranking /embed_all: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a reranker: use /rerank, /v1/rerank, /v2/rerank, /predict

token_classification /embed_all: 424
  error: Backend error: Model is not an embedding model
  error_type: Backend
  hint: `tiny` is a token classifier: use /predict_tokens
""")
