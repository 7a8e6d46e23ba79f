"""The answer of `/v1/embeddings` apart from any server, and any body that may come."""

import base64
from contextlib import suppress
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.fakes import make_state

from beicli.errors import RequestError
from beicli.server.openai_embeddings import Embeddings, EmbeddingsHandler
from beicli.server.vectors import EmbedDtype, EncodingFormat, VectorForm

HANDLER = EmbeddingsHandler(make_state())
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXTS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXTS, values, max_size=4),
    max_leaves=8,
)
NAMES = ["input", "dimensions", "encoding_format", "embed_dtype", "truncate", "prompt_name"]
MATRICES = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1, 1, width=32)
)


def write(
    vectors: np.ndarray,
    encoding_format: str = "float",
    dtype: str = "float32",
    model: str = "m",
) -> Embeddings:
    form = VectorForm(EncodingFormat(encoding_format), EmbedDtype(dtype))
    return Embeddings(vectors, model=model, num_tokens=7, form=form)


@given(st.dictionaries(st.sampled_from(NAMES), JSON_VALUES))
def test_any_json_is_either_understood_or_refused_with_an_expected_error(
    body: dict[str, Any],
) -> None:
    with suppress(RequestError):
        assert HANDLER.parse(body).size.num_inputs >= 1


@given(MATRICES)
def test_both_encodings_hold_the_vectors_bit_by_bit(vectors: np.ndarray) -> None:
    as_float = orjson.loads(write(vectors).to_json())
    as_base64 = orjson.loads(write(vectors, "base64").to_json())

    rows = [np.array(item["embedding"], dtype=np.float32) for item in as_float["data"]]
    raw = [base64.b64decode(item["embedding"], validate=True) for item in as_base64["data"]]
    np.testing.assert_array_equal(rows, vectors)
    np.testing.assert_array_equal([np.frombuffer(row, dtype="<f4") for row in raw], vectors)
    assert [item["index"] for item in as_base64["data"]] == list(range(len(vectors)))


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_json_and_plain_values_say_the_same(encoding_format: str) -> None:
    response = write(np.arange(6, dtype=np.float32).reshape(2, 3), encoding_format)

    plain = orjson.dumps(response.to_object(), option=orjson.OPT_SERIALIZE_NUMPY)

    assert orjson.loads(plain) == orjson.loads(response.to_json())


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_vectors_that_are_a_view_into_longer_ones_are_written_alone(encoding_format: str) -> None:
    view = np.arange(12, dtype=np.float32).reshape(2, 6)[:, :4]

    assert write(view, encoding_format).to_json() == write(view.copy(), encoding_format).to_json()


def test_the_response_is_one_compact_document() -> None:
    response = write(np.array([[1.0, -0.5]], dtype=np.float32), model='a "b" ü')

    assert response.to_json().decode() == (
        '{"object":"list","data":[{"object":"embedding","embedding":[1.0,-0.5],"index":0}],'
        '"model":"a \\"b\\" ü","usage":{"prompt_tokens":7,"total_tokens":7}}'
    )


@given(MATRICES)
def test_the_metadata_of_raw_bytes_finds_each_row(vectors: np.ndarray) -> None:
    body, headers = write(vectors, "bytes", "float16").to_bytes()

    metadata = orjson.loads(headers["metadata"])
    rows = [
        np.frombuffer(body[item["start"] : item["end"]], dtype="<f2").reshape(item["shape"])
        for item in metadata["data"]
    ]
    np.testing.assert_array_equal(rows, vectors.astype(np.float16))
    assert metadata["data"][-1]["end"] == len(body)
    assert metadata["shape"] == list(vectors.shape)


def test_the_metadata_are_vllms_with_the_shape_of_the_whole() -> None:
    _, headers = write(np.zeros((2, 3), dtype=np.float32), "bytes", model="ü").to_bytes()

    assert headers["metadata"].isascii()
    assert orjson.loads(headers["metadata"]) == {
        "model": "ü",
        "data": [
            {
                "index": index,
                "embed_dtype": "float32",
                "endianness": "little",
                "start": index * 12,
                "end": index * 12 + 12,
                "shape": [3],
            }
            for index in range(2)
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "shape": [2, 3],
        "dtype": "float32",
        "endianness": "little",
    }
