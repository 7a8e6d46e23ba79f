import base64
from contextlib import suppress

import hypothesis.extra.numpy as arrays
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.errors import RequestError
from beicli.server.schemas import create_response, parse_embeddings_request, parse_json_object

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
IDS = st.lists(st.integers(0, 2**63), min_size=1, max_size=5)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXTS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXTS, values, max_size=4),
    max_leaves=8,
)
FLOATS = st.floats(-1, 1, width=32)
MATRICES = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2), elements=FLOATS)


@given(st.lists(TEXTS | IDS, min_size=1, max_size=8))
def test_a_batch_comes_out_as_it_was_sent(inputs: list[str | list[int]]) -> None:
    request = parse_embeddings_request(orjson.dumps({"input": inputs}), max_client_batch_size=8)

    assert (list(request.inputs), request.is_batch) == (inputs, True)


@given(TEXTS | IDS)
def test_a_single_input_is_a_batch_of_one_but_is_not_called_a_batch(item: str | list[int]) -> None:
    request = parse_embeddings_request(orjson.dumps({"input": item}), max_client_batch_size=8)

    assert (list(request.inputs), request.is_batch) == ([item], False)


@given(st.dictionaries(st.sampled_from(["input", "dimensions", "encoding_format"]), JSON_VALUES))
def test_any_json_is_either_understood_or_refused_with_an_expected_error(
    fields: dict[str, object],
) -> None:
    with suppress(RequestError):
        request = parse_embeddings_request(orjson.dumps(fields), max_client_batch_size=3)
        assert 1 <= len(request.inputs) <= 3


@given(st.binary(max_size=40))
def test_any_bytes_are_either_an_object_or_refused_with_an_expected_error(body: bytes) -> None:
    with suppress(RequestError):
        assert isinstance(parse_json_object(body), dict)


def test_only_texts_have_characters() -> None:
    request = parse_embeddings_request(
        '{"input": ["naïve", [1, 2, 3], "🙂"]}'.encode(), max_client_batch_size=8
    )

    assert request.num_characters == 6


@given(MATRICES)
def test_both_encodings_hold_the_vectors_bit_by_bit(embeddings: np.ndarray) -> None:
    as_float = orjson.loads(
        create_response(embeddings, encoding_format="float", model="m", num_tokens=1)
    )
    as_base64 = orjson.loads(
        create_response(embeddings, encoding_format="base64", model="m", num_tokens=1)
    )

    rows = [np.array(item["embedding"], dtype=np.float32) for item in as_float["data"]]
    raw = [base64.b64decode(item["embedding"], validate=True) for item in as_base64["data"]]
    np.testing.assert_array_equal(rows, embeddings)
    np.testing.assert_array_equal([np.frombuffer(row, dtype="<f4") for row in raw], embeddings)
    assert [item["index"] for item in as_base64["data"]] == list(range(len(embeddings)))


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_vectors_that_are_a_view_into_longer_ones_are_written_alone(encoding_format: str) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(2, 6)
    view = whole[:, :4]

    assert create_response(
        view, encoding_format=encoding_format, model="m", num_tokens=1
    ) == create_response(view.copy(), encoding_format=encoding_format, model="m", num_tokens=1)


def test_the_response_is_one_compact_document() -> None:
    body = create_response(
        np.array([[1.0, -0.5]], dtype=np.float32),
        encoding_format="float",
        model='a "b" ü',
        num_tokens=7,
    )

    assert body.decode() == (
        '{"object":"list","data":[{"object":"embedding","embedding":[1.0,-0.5],"index":0}],'
        '"model":"a \\"b\\" ü","usage":{"prompt_tokens":7,"total_tokens":7}}'
    )
