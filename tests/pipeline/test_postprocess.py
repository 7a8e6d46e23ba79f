import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from beicli.pipeline.postprocess import l2_normalize, truncate_dimensions

vectors = arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False))


@given(vectors)
def test_normalized_rows_have_length_one_or_stay_zero(rows: np.ndarray) -> None:
    lengths = np.linalg.norm(l2_normalize(rows).astype(np.float64), axis=1)

    for row, length in zip(rows, lengths, strict=True):
        assert abs(length - 1) < 1e-5 or np.linalg.norm(row.astype(np.float64)) < 1e-11


def test_a_zero_row_stays_zero_and_is_not_a_nan() -> None:
    assert l2_normalize(np.zeros((1, 4), np.float32)).tolist() == [[0, 0, 0, 0]]


def test_normalizing_survives_values_whose_squares_overflow_float32() -> None:
    rows = np.array([[3e30, 4e30]], np.float32)

    assert np.allclose(l2_normalize(rows), [[0.6, 0.8]])


def test_truncation_keeps_the_first_dimensions() -> None:
    rows = np.arange(10, dtype=np.float32).reshape(2, 5)

    assert truncate_dimensions(rows, 2).tolist() == [[0, 1], [5, 6]]
    assert truncate_dimensions(rows, None) is rows
