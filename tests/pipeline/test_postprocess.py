import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from beicli.errors import RequestError
from beicli.model.spec import ScoreActivation
from beicli.pipeline.postprocess import (
    activate,
    check_dimensions,
    l2_normalize,
    own,
    relevance_logits,
    sigmoid,
    softmax,
    to_sparse,
    truncate_dimensions,
)

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


# Every finite float32, so also logits no model gives.
logits = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(-30, 30, width=32),
)


@given(logits)
def test_softmax_is_that_of_scipy_in_float64(rows: np.ndarray) -> None:
    scores = softmax(rows)

    assert scores.dtype == np.float32
    assert np.allclose(scores, special.softmax(rows.astype(np.float64), axis=-1), atol=1e-7)
    assert np.allclose(scores.sum(axis=-1), 1, atol=1e-6)


@given(logits)
def test_sigmoid_is_that_of_scipy_in_float64(rows: np.ndarray) -> None:
    scores = sigmoid(rows)

    assert scores.dtype == np.float32
    assert np.allclose(scores, special.expit(rows.astype(np.float64)), rtol=1e-6, atol=1e-30)


def test_softmax_survives_logits_far_below_zero() -> None:
    rows = np.array([[-1e30, -2e30], [-700, -701]], np.float32)

    assert np.allclose(softmax(rows), [[1, 0], [0.7310586, 0.2689414]])


def test_activation_is_over_all_labels_together_or_each_for_itself() -> None:
    rows = np.array([[1, 2, 3]], np.float32)

    assert np.array_equal(activate(rows, ScoreActivation.SOFTMAX), softmax(rows))
    assert np.array_equal(activate(rows, ScoreActivation.SIGMOID), sigmoid(rows))


@given(rows=logits, label=st.integers(0, 4), activation=st.sampled_from(list(ScoreActivation)))
def test_the_sigmoid_of_a_relevance_logit_is_the_score_of_its_label(
    rows: np.ndarray, label: int, activation: ScoreActivation
) -> None:
    # Twice as much is still a float32.
    rows = rows / 2
    label %= rows.shape[1]
    # Of one label alone softmax knows nothing, and its sigmoid is meant.
    is_single = rows.shape[1] == 1
    wanted = sigmoid(rows) if is_single else activate(rows, activation)

    found = relevance_logits(rows, label=label, activation=activation)

    assert found.shape == (len(rows),)
    assert found.dtype == np.float32
    assert np.allclose(sigmoid(found), wanted[:, label], atol=1e-5)


@given(
    arrays(
        np.float32,
        20,
        elements=st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.25]) | st.floats(0, 9, width=32),
    )
)
def test_a_sparse_vector_is_the_dense_one_without_its_zeros(weights: np.ndarray) -> None:
    sparse = to_sparse(weights)

    dense = np.zeros_like(weights)
    dense[sparse.indices] = sparse.values
    assert np.array_equal(dense, weights)
    assert (sparse.values > 0).all()
    assert (np.diff(sparse.indices) > 0).all()
    assert (sparse.indices.dtype, sparse.values.dtype) == (np.int32, np.float32)


def test_rows_are_copied_out_of_a_much_larger_array_and_else_left_alone() -> None:
    batch = np.arange(40, dtype=np.float32).reshape(10, 4)

    small, most, whole = own(batch[2:4]), own(batch[:8]), own(batch)

    assert small.base is None
    assert small.tolist() == batch[2:4].tolist()
    assert most.base is not None
    assert np.shares_memory(whole, batch)


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        (0, "`dimensions` should be positive"),
        (-1, "`dimensions` should be positive"),
        (9, "`dimensions` should be smaller than the maximum embedding dimension."),
    ],
)
def test_dimensions_a_vector_cannot_be_truncated_to_are_refused(
    dimensions: int, message: str
) -> None:
    with pytest.raises(RequestError) as failure:
        check_dimensions(dimensions, full=8)

    assert failure.value.message == f"Input validation error: {message}"
    assert failure.value.param == "dimensions"
    for fine in (None, 1, 8):
        check_dimensions(fine, full=8)
