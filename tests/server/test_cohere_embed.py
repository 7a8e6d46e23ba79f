"""`/v2/embed`, by hand and with Cohere's own client."""

import base64
from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import numpy as np
import pytest
from inline_snapshot import snapshot
from tests.server.fakes import (
    DIMENSION,
    FakeEngine,
    LiveServer,
    ask,
    live_server,
    vector,
    word_ids,
)
from tests.server.refusals import refusals

from beicli.model.spec import Task
from beicli.pipeline.quantize import to_binary, to_int8, to_ubinary, to_uint8
from beicli.server.options import ServerOptions

PROMPTS = {"query": "w9 ", "passage": "w8 "}
TEXTS = ["w1 w2", "w3"]
VECTORS = np.stack([vector(word_ids(1, 2)), vector(word_ids(3))])
TYPES = ["float", "int8", "uint8", "binary", "ubinary", "base64"]


def embed(options: ServerOptions | None = None, **fields: Any) -> dict[str, Any]:
    response = ask(
        "POST", "/v2/embed", engine=FakeEngine(prompts=PROMPTS), options=options, json=fields
    )
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(FakeEngine(prompts=PROMPTS, poison_id=8)) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[cohere.ClientV2]:
    # Left to itself it keeps its connections until it is collected.
    with httpx.Client() as http:
        yield cohere.ClientV2(api_key="none", base_url=server.url, max_retries=0, httpx_client=http)


def test_the_answer_has_the_shape_and_key_order_of_coheres_api() -> None:
    body = embed(model="any", input_type="clustering", texts=TEXTS)

    assert list(body) == ["response_type", "id", "embeddings", "texts", "meta"]
    assert body["response_type"] == "embeddings_by_type"
    assert body["texts"] == TEXTS
    assert body["meta"] == {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": 7},
    }
    np.testing.assert_allclose(body["embeddings"]["float"], VECTORS, atol=1e-6)
    assert list(body["embeddings"]) == ["float"]


def test_each_answer_has_an_id_of_its_own() -> None:
    assert embed(texts=["w1"])["id"] != embed(texts=["w1"])["id"]


def test_several_types_come_in_one_answer_in_the_order_asked_for() -> None:
    body = embed(texts=TEXTS, embedding_types=["ubinary", "int8", "float", "int8"])

    assert list(body["embeddings"]) == ["ubinary", "int8", "float"]
    np.testing.assert_array_equal(body["embeddings"]["int8"], to_int8(VECTORS))
    np.testing.assert_array_equal(body["embeddings"]["ubinary"], to_ubinary(VECTORS))


@pytest.mark.parametrize(
    ("input_type", "prefix"),
    [("search_query", "w9 "), ("search_document", "w8 "), ("classification", ""), (None, "")],
)
def test_the_input_type_chooses_the_prompt(input_type: str | None, prefix: str) -> None:
    asked = embed(texts=["w1"], input_type=input_type)
    written = embed(texts=[f"{prefix}w1"])

    assert asked["embeddings"] == written["embeddings"]
    assert asked["texts"] == ["w1"]


@pytest.mark.parametrize(
    ("truncate", "kept"),
    [
        ("END", word_ids(*range(14))),
        ("START", word_ids(*range(6, 20))),
        (None, word_ids(*range(14))),
    ],
)
def test_an_overlong_text_is_cut_at_the_end_that_is_named(
    truncate: str | None, kept: list[int]
) -> None:
    text = " ".join(f"w{number}" for number in range(20))

    body = embed(texts=[text], truncate=truncate)

    np.testing.assert_allclose(body["embeddings"]["float"], [vector(kept)], atol=1e-6)


def test_the_server_decides_about_truncation_if_the_request_does_not() -> None:
    text = "w1 " * 40

    strict = ask(
        "POST", "/v2/embed", options=ServerOptions(on_too_long="error"), json={"texts": [text]}
    )

    assert strict.status_code == 422
    embed(options=ServerOptions(on_too_long="error"), texts=[text], truncate="END")


def test_inputs_with_contents_of_text_are_embedded_as_texts() -> None:
    body = embed(
        inputs=[
            {"content": [{"type": "text", "text": "w1"}, {"type": "text", "text": "w2"}]},
            {"content": [{"type": "text", "text": "w3"}]},
        ]
    )

    np.testing.assert_allclose(body["embeddings"]["float"], VECTORS, atol=1e-6)
    assert body["texts"] == ["w1\nw2", "w3"]


@pytest.mark.parametrize("name", ["images", "inputs", "embedding_types", "output_dimension"])
def test_null_counts_as_left_out(name: str) -> None:
    assert (
        embed(**{"texts": ["w1"], name: None})["embeddings"] == (embed(texts=["w1"])["embeddings"])
    )


def test_a_window_no_smaller_than_the_models_changes_nothing() -> None:
    assert embed(texts=["w1"], max_tokens=16)["embeddings"] == embed(texts=["w1"])["embeddings"]


def decoded(embeddings: cohere.EmbedByTypeResponseEmbeddings, name: str) -> np.ndarray:
    rows = getattr(embeddings, "float_" if name == "float" else name)
    if name == "base64":
        return np.array([np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows])
    return np.array(rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float", VECTORS),
        ("base64", VECTORS),
        ("int8", to_int8(VECTORS)),
        ("uint8", to_uint8(VECTORS)),
        ("binary", to_binary(VECTORS)),
        ("ubinary", to_ubinary(VECTORS)),
    ],
)
def test_coheres_client_gets_every_type(
    client: cohere.ClientV2, name: str, expected: np.ndarray
) -> None:
    response = client.embed(
        model="any", input_type="clustering", texts=TEXTS, embedding_types=[name]
    )

    np.testing.assert_allclose(decoded(response.embeddings, name), expected, atol=1e-6)
    assert response.response_type == "embeddings_by_type"
    assert response.meta is not None
    assert response.meta.billed_units is not None
    assert response.meta.billed_units.input_tokens == 7
    assert response.texts == TEXTS


def test_coheres_client_gets_all_types_at_once_in_fewer_dimensions(
    client: cohere.ClientV2,
) -> None:
    response = client.embed(
        model="any",
        input_type="search_query",
        texts=["w1"],
        embedding_types=TYPES,
        output_dimension=4,
        truncate="END",
    )

    head = vector(word_ids(9, 1))[:4]
    head /= np.linalg.norm(head)
    found = {name: decoded(response.embeddings, name) for name in TYPES}
    np.testing.assert_allclose(found["float"], [head], atol=1e-6)
    assert {name: rows.shape for name, rows in found.items()} == {
        "float": (1, 4),
        "int8": (1, 4),
        "uint8": (1, 4),
        "binary": (1, 1),
        "ubinary": (1, 1),
        "base64": (1, 4),
    }


@pytest.mark.parametrize(
    ("texts", "error_class"),
    [
        ([], cohere.BadRequestError),
        (["w1 " * 40], cohere.UnprocessableEntityError),
        (["w4"], cohere.core.api_error.ApiError),
    ],
)
def test_coheres_client_raises_its_error(
    client: cohere.ClientV2, texts: list[str], error_class: type[Exception]
) -> None:
    with pytest.raises(error_class):
        client.embed(model="any", input_type="clustering", texts=texts, truncate="NONE")


def contents(*parts: Any) -> dict[str, Any]:
    return {"inputs": [{"content": list(parts)}]}


REFUSED: dict[str, dict[str, Any]] = {
    "nothing": {"model": "any"},
    "texts are a text": {"texts": "w1"},
    "an empty list": {"texts": []},
    "an empty text": {"texts": ["w1", ""]},
    "token ids": {"texts": [[5]]},
    "129 texts": {"texts": ["w1"] * 129},
    "images": {"images": ["data:image/png;base64,AA=="]},
    "an image among inputs": contents({"type": "image_url", "image_url": {"url": "data:"}}),
    "inputs are texts": {"inputs": ["w1"]},
    "inputs are a text": {"inputs": "w1"},
    "no inputs": {"inputs": []},
    "an input without contents": {"inputs": [{"content": "w1"}]},
    "a content without text": contents({"type": "text"}),
    "an input of no contents": contents(),
    "129 inputs": {"inputs": [{"content": [{"type": "text", "text": "w1"}]}] * 129},
    "texts and inputs": {"texts": ["w1"], "inputs": []},
    "too long": {"texts": ["w1 " * 40], "truncate": "NONE"},
    "unknown truncation": {"texts": ["w1"], "truncate": "MIDDLE"},
    "unknown type": {"texts": ["w1"], "embedding_types": ["float", "int4"]},
    "type is null": {"texts": ["w1"], "embedding_types": [None]},
    "types are a text": {"texts": ["w1"], "embedding_types": "float"},
    "unknown purpose": {"texts": ["w1"], "input_type": "image"},
    "no dimensions": {"texts": ["w1"], "output_dimension": 0},
    "too many dimensions": {"texts": ["w1"], "output_dimension": DIMENSION + 1},
    "a smaller window": {"texts": ["w1"], "max_tokens": 15},
}


def test_a_bad_request_is_refused_with_the_reason_and_the_next_step() -> None:
    assert refusals("/v2/embed", REFUSED) == snapshot("""\
nothing: 422
  error.message: `texts` is missing
  error.type: invalid_request_error
  error.param: texts
  error.code: invalid_value
  error.hint: send {"model": "any", "input_type": "search_document", "texts": ["some text"]}
texts are a text: 422
  error.message: `texts` is a string; a list of texts is wanted
  error.type: invalid_request_error
  error.param: texts
  error.code: invalid_value
an empty list: 400
  error.message: `texts` cannot be empty
  error.type: invalid_request_error
  error.param: texts
  error.code: empty_input
  error.hint: `texts` is an empty list
an empty text: 400
  error.message: Input validation error: `inputs` cannot be empty
  error.type: invalid_request_error
  error.param: texts
  error.code: empty_input
  error.hint: input 1 is an empty string: leave it out or send a text
token ids: 422
  error.message: `texts[0]` is a list; a text is wanted
  error.type: invalid_request_error
  error.param: texts
  error.code: invalid_value
129 texts: 413
  error.message: batch size 129 > maximum allowed batch size 128
  error.type: invalid_request_error
  error.param: texts
  error.code: batch_too_large
  error.hint: send at most 128 inputs in a request
images: 422
  error.message: `images` cannot be embedded by this model
  error.type: invalid_request_error
  error.param: images
  error.code: invalid_value
  error.hint: this server embeds texts: send `texts`, or `inputs` with contents of type
    `text`
an image among inputs: 422
  error.message: `inputs[0].content[0]` is no text
  error.type: invalid_request_error
  error.param: inputs
  error.code: invalid_value
  error.hint: this server embeds texts: send `texts`, or `inputs` with contents of type
    `text`
inputs are texts: 422
  error.message: `inputs[0]` has no list of contents
  error.type: invalid_request_error
  error.param: inputs
  error.code: invalid_value
  error.hint: an input is {"content": [{"type": "text", "text": "some text"}]}
inputs are a text: 422
  error.message: `inputs` is a string; a list of objects is wanted
  error.type: invalid_request_error
  error.param: inputs
  error.code: invalid_value
no inputs: 400
  error.message: `inputs` cannot be empty
  error.type: invalid_request_error
  error.param: inputs
  error.code: empty_input
  error.hint: `inputs` is an empty list
an input without contents: 422
  error.message: `inputs[0]` has no list of contents
  error.type: invalid_request_error
  error.param: inputs
  error.code: invalid_value
  error.hint: an input is {"content": [{"type": "text", "text": "some text"}]}
a content without text: 422
  error.message: `inputs[0].content[0].text` is null; a text is wanted
  error.type: invalid_request_error
  error.param: inputs
  error.code: invalid_value
an input of no contents: 400
  error.message: Input validation error: `inputs` cannot be empty
  error.type: invalid_request_error
  error.param: texts
  error.code: empty_input
  error.hint: input 0 is an empty string: leave it out or send a text
129 inputs: 413
  error.message: batch size 129 > maximum allowed batch size 128
  error.type: invalid_request_error
  error.param: inputs
  error.code: batch_too_large
  error.hint: send at most 128 inputs in a request
texts and inputs: 422
  error.message: `texts` and `inputs` are both given; one of them is wanted
  error.type: invalid_request_error
  error.param: inputs
  error.code: invalid_value
too long: 422
  error.message: Input validation error: `inputs` must have less than 16 tokens. Given: 42
  error.type: invalid_request_error
  error.param: texts
  error.code: invalid_value
  error.hint: input 0 is too long; send `truncate: "END"` to have its end cut off, or split
    it
unknown truncation: 422
  error.message: `truncate` is `MIDDLE`; `none`, `start` or `end` is wanted
  error.type: invalid_request_error
  error.param: truncate
  error.code: invalid_value
unknown type: 422
  error.message: `embedding_types[1]` is `int4`; `float`, `int8`, `uint8`, `binary`,
    `ubinary` or `base64` is wanted
  error.type: invalid_request_error
  error.param: embedding_types
  error.code: invalid_value
type is null: 422
  error.message: `embedding_types[0]` is null; `float`, `int8`, `uint8`, `binary`, `ubinary`
    or `base64` is wanted
  error.type: invalid_request_error
  error.param: embedding_types
  error.code: invalid_value
types are a text: 422
  error.message: `embedding_types` is a string; a list of strings or null is wanted
  error.type: invalid_request_error
  error.param: embedding_types
  error.code: invalid_value
unknown purpose: 422
  error.message: `input_type` is `image`; one of search_query, query, search_document,
    document, passage, classification, clustering is wanted
  error.type: invalid_request_error
  error.param: input_type
  error.code: invalid_value
no dimensions: 422
  error.message: Input validation error: `dimensions` should be positive
  error.type: invalid_request_error
  error.param: output_dimension
  error.code: invalid_value
  error.hint: 0 was given
too many dimensions: 422
  error.message: Input validation error: `dimensions` should be smaller than the maximum
    embedding dimension.
  error.type: invalid_request_error
  error.param: output_dimension
  error.code: invalid_value
  error.hint: 9 was given; this model's embeddings have 8 dimensions
a smaller window: 422
  error.message: `max_tokens` is 15; inputs are cut to this model's window of 16 tokens only
  error.type: invalid_request_error
  error.param: max_tokens
  error.code: invalid_value
  error.hint: leave it out, or send shorter texts
""")


def test_a_classifier_embeds_nothing() -> None:
    engine = FakeEngine(task=Task.CLASSIFICATION)

    assert refusals("/v2/embed", {"": {"texts": ["w1"]}}, engine=engine) == snapshot("""\
: 424
  error.message: Backend error: Model is not an embedding model
  error.type: invalid_request_error
  error.param: None
  error.code: wrong_model_type
  error.hint: `tiny` is a classifier: use /predict
""")
