from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.pipeline.postprocess import l2_normalize
from beicli.pipeline.quantize import to_binary, to_int8, to_ubinary, to_uint8

MATRICES = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1, 1, width=32)
)


def test_int8_is_127_times_the_number_to_the_nearest() -> None:
    row = np.array([[1.0, -1.0, 0.0, 0.5, -0.005, 0.003, 1.5, -2.0]], dtype=np.float32)

    assert [int(n) for n in to_int8(row)[0]] == [127, -127, 0, 64, -1, 0, 127, -127]


@given(MATRICES)
def test_uint8_is_int8_with_128_added(matrix: np.ndarray) -> None:
    unsigned, signed = to_uint8(matrix), to_int8(matrix)

    assert unsigned.dtype == np.uint8
    np.testing.assert_array_equal(unsigned.astype(int), signed.astype(int) + 128)


@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 384, 768, 1024]))
def test_int8_keeps_the_direction_of_unit_vectors(seed: int, dimension: int) -> None:
    random = np.random.default_rng(seed)
    vectors = l2_normalize(random.standard_normal((4, dimension)).astype(np.float32))

    kept = l2_normalize(to_int8(vectors).astype(np.float32))

    assert np.min(np.sum(kept * vectors, axis=1)) > 0.996


def test_bits_say_which_numbers_are_above_zero_first_one_highest() -> None:
    row = np.array([[0.1, -0.1, 0.0, 0.2, -1, -1, -1, -1, 0.3]], dtype=np.float32)

    # Nine bits fill two bytes, the rest of which is zero.
    assert [int(n) for n in to_ubinary(row)[0]] == [0b10010000, 0b10000000]
    assert [int(n) for n in to_binary(row)[0]] == [0b10010000 - 128, 0b10000000 - 128]


@pytest.mark.parametrize(
    ("ours", "precision"),
    [(to_binary, "binary"), (to_ubinary, "ubinary")],
    ids=["binary", "ubinary"],
)
def test_bits_are_those_of_sentence_transformers(
    ours: Callable[[np.ndarray], np.ndarray], precision: str
) -> None:
    quantize_embeddings = pytest.importorskip("sentence_transformers.util").quantize_embeddings
    vectors = np.random.default_rng(0).standard_normal((5, 77)).astype(np.float32)
    vectors[0] = 0

    theirs = quantize_embeddings(vectors, precision)

    assert ours(vectors).dtype == theirs.dtype
    np.testing.assert_array_equal(ours(vectors), theirs)
