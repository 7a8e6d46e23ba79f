import base64
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import beicli
from beicli.server.vectors import (
    EmbedDtype,
    EncodingFormat,
    VectorForm,
    base64_rows,
    little_endian,
    parse_vector_form,
)

SOURCE = Path(beicli.__file__).parent
MATRICES = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2),
    elements=st.floats(-1, 1, width=32),
)


@given(MATRICES, st.sampled_from(EmbedDtype))
def test_base64_rows_hold_each_rows_numbers_in_little_endian(
    matrix: np.ndarray, dtype: EmbedDtype
) -> None:
    numpy_dtype = "<f4" if dtype is EmbedDtype.FLOAT32 else "<f2"

    rows = [base64.b64decode(row, validate=True) for row in base64_rows(matrix, dtype)]

    np.testing.assert_array_equal(
        [np.frombuffer(row, numpy_dtype) for row in rows], matrix.astype(numpy_dtype)
    )


def test_vectors_that_are_a_view_into_longer_ones_are_written_alone() -> None:
    whole = np.arange(12, dtype=np.float32).reshape(2, 6)

    assert (
        little_endian(whole[:, :2], EmbedDtype.FLOAT32).tobytes()
        == np.array([0, 1, 6, 7], dtype="<f4").tobytes()
    )


def test_numbers_too_large_for_float16_become_infinite_without_a_warning() -> None:
    (row,) = little_endian(np.array([[1e6, -1e6]], dtype=np.float32), EmbedDtype.FLOAT16)

    assert row[0] == np.inf
    assert row[1] == -np.inf


def test_a_form_is_read_from_vllms_fields() -> None:
    body = {"encoding_format": "bytes", "embed_dtype": "float16", "endianness": "little"}

    assert parse_vector_form(body) == VectorForm(EncodingFormat.BYTES, EmbedDtype.FLOAT16)


@pytest.mark.parametrize("name", ["encoding_format", "embed_dtype", "endianness"])
def test_a_field_that_is_null_counts_as_left_out(name: str) -> None:
    assert parse_vector_form({name: None}) == VectorForm()


# What a vector passes through; elsewhere it is indices, labels and their scores that are lists.
ON_THE_WAY = [
    "pipeline/pipeline.py",
    "pipeline/postprocess.py",
    "pipeline/quantize.py",
    "server/cohere_embed.py",
    "server/inference.py",
    "server/negotiation.py",
    "server/openai_embeddings.py",
    "server/tei_embeddings.py",
    "server/vectors.py",
]


@pytest.mark.parametrize("module", ON_THE_WAY)
def test_no_vector_becomes_a_list_of_python_numbers_on_its_way_out(module: str) -> None:
    assert ".tolist(" not in (SOURCE / module).read_text(encoding="utf-8")
