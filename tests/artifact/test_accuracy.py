import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.artifact.accuracy import (
    INT8_LIMITS,
    MIN_COSINE,
    NUM_WORST_SAMPLES,
    compare_scores,
    compare_vectors,
    neighbour_overlap,
    similarity_correlation,
)
from beicli.artifact.golden import Float32
from beicli.artifact.report import VectorReport
from beicli.builder.gate import require_accuracy
from beicli.errors import AccuracyError

NUM_TEXTS = 40
TEXTS = [f"text number {number}" for number in range(NUM_TEXTS)]


def unit_vectors(seed: int, num_vectors: int = NUM_TEXTS) -> Float32:
    rows = np.random.default_rng(seed).normal(size=(num_vectors, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def rotated(vectors: Float32, row: int, degrees: float) -> Float32:
    """Turn one row by an angle, in the plane it spans with some direction across it."""
    across = np.random.default_rng(1).normal(size=vectors.shape[1])
    across -= vectors[row] * (across @ vectors[row])
    across /= np.linalg.norm(across)
    angle = np.radians(degrees)
    turned = vectors.copy()
    turned[row] = np.cos(angle) * vectors[row] + np.sin(angle) * across
    return turned


def test_an_engine_that_says_the_same_agrees_fully() -> None:
    vectors = unit_vectors(0)

    report = compare_vectors(vectors, vectors, TEXTS, precision="f32")

    assert report.num_samples == NUM_TEXTS
    assert report.cosine_min == pytest.approx(1, abs=1e-6)
    assert report.cosine_mean == pytest.approx(1, abs=1e-6)
    assert report.neighbour_overlap == 1
    assert report.max_abs_difference == 0
    assert report.passed
    require_accuracy(report, backend="openvino")


def test_one_vector_off_is_found_and_its_text_named() -> None:
    vectors = unit_vectors(0)

    report = compare_vectors(vectors, rotated(vectors, 17, degrees=3), TEXTS, precision="f32")

    assert report.cosine_min == pytest.approx(np.cos(np.radians(3)), abs=1e-6)
    assert report.worst_samples[0].text == "text number 17"
    with pytest.raises(AccuracyError, match="'text number 17'") as raised:
        require_accuracy(report, backend="openvino")
    assert "cosine 0.998630" in raised.value.message
    assert f"at least {MIN_COSINE['f32']} is wanted" in raised.value.message


@pytest.mark.parametrize(
    ("precision", "degrees", "passes"),
    [("f32", 0.7, True), ("f32", 1.0, False), ("bf16", 2.4, True), ("bf16", 2.7, False)],
)
def test_each_precision_has_its_own_limit(precision: str, degrees: float, *, passes: bool) -> None:
    # The cosines are 0.99993, 0.99985, 0.9991 and 0.9989.
    vectors = unit_vectors(0)

    report = compare_vectors(vectors, rotated(vectors, 3, degrees), TEXTS, precision=precision)

    assert report.passed is passes


def test_a_bf16_engine_that_fails_is_told_of_f32() -> None:
    vectors = unit_vectors(0)
    report = compare_vectors(vectors, rotated(vectors, 0, degrees=5), TEXTS, precision="bf16")

    with pytest.raises(AccuracyError) as raised:
        require_accuracy(report, backend="openvino")

    assert "--precision f32" in str(raised.value.hint)


def test_a_f32_engine_that_fails_is_not_told_of_f32() -> None:
    vectors = unit_vectors(0)
    report = compare_vectors(vectors, rotated(vectors, 0, degrees=5), TEXTS, precision="f32")

    with pytest.raises(AccuracyError) as raised:
        require_accuracy(report, backend="openvino")

    assert "--precision" not in str(raised.value.hint)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_rows_that_are_no_vectors_are_the_worst_of_all(value: float) -> None:
    vectors = unit_vectors(0)
    broken = rotated(vectors, 3, degrees=2)
    broken[21] = value

    with np.errstate(invalid="ignore"):
        report = compare_vectors(vectors, broken, TEXTS, precision="f32")

    assert report.worst_samples[0].text == "text number 21"
    assert not report.passed


def test_the_worst_samples_come_worst_first() -> None:
    vectors = unit_vectors(0)
    candidate = vectors
    for row in range(NUM_WORST_SAMPLES + 2):
        candidate = rotated(candidate, row, degrees=row)

    worst = compare_vectors(vectors, candidate, TEXTS, precision="f32").worst_samples

    assert [agreement.text for agreement in worst] == [
        f"text number {row}" for row in range(NUM_WORST_SAMPLES + 1, 1, -1)
    ]
    assert [agreement.cosine for agreement in worst] == sorted(
        agreement.cosine for agreement in worst
    )


def test_ordinary_vectors_have_no_index_overlap() -> None:
    assert (
        compare_vectors(unit_vectors(0), unit_vectors(0), TEXTS, precision="f32").index_overlap
        is None
    )


def test_long_texts_are_cut_in_the_report() -> None:
    vectors = unit_vectors(0, num_vectors=2)

    report = compare_vectors(vectors, vectors, ["x" * 10_000, "y"], precision="f32")

    assert max(len(agreement.text) for agreement in report.worst_samples) == 80


def test_mean_and_first_percentile_are_over_the_texts() -> None:
    vectors = unit_vectors(0, num_vectors=101)
    candidate = rotated(vectors, 0, degrees=60)

    report = compare_vectors(vectors, candidate, ["text"] * 101, precision="f32")

    assert report.cosine_min == pytest.approx(0.5, abs=1e-6)
    assert report.cosine_mean == pytest.approx((100 + 0.5) / 101, abs=1e-6)
    assert report.cosine_first_percentile == pytest.approx(1, abs=1e-6)


def test_max_abs_difference_is_over_all_components() -> None:
    vectors = unit_vectors(0)
    candidate = vectors.copy()
    candidate[5, 3] += 0.25

    report = compare_vectors(vectors, candidate, TEXTS, precision="f32")

    assert report.max_abs_difference == pytest.approx(0.25, abs=1e-6)


def test_a_report_is_plain_json() -> None:
    report = compare_vectors(unit_vectors(0), unit_vectors(1), TEXTS, precision="bf16")

    data = json.loads(json.dumps(asdict(report), allow_nan=False))

    assert list(data) == list(VectorReport.__dataclass_fields__)
    assert data["worst_samples"][0]["cosine"] == report.cosine_min


def test_a_report_passes_at_its_limit() -> None:
    report = compare_vectors(unit_vectors(0), unit_vectors(0), TEXTS, precision="f32")

    assert replace(report, cosine_min=report.cosine_min_allowed).passed


def test_neighbours_that_all_changed_overlap_not_at_all() -> None:
    # A grid of 11 x 11 texts: those of one row point the same way, then those of one column do,
    # so each text has ten nearest and shares none of them.
    by_row = np.repeat(np.eye(11, dtype=np.float32), 11, axis=0)
    by_column = np.tile(np.eye(11, dtype=np.float32), (11, 1))

    assert neighbour_overlap(by_row, by_row) == 1
    assert neighbour_overlap(by_row, by_column) == 0


@given(st.integers(0, 100), st.integers(1, 30))
def test_neighbour_overlap_is_a_share_and_full_with_itself(seed: int, num_vectors: int) -> None:
    vectors, others = unit_vectors(seed, num_vectors), unit_vectors(seed + 1, num_vectors)

    assert neighbour_overlap(vectors, vectors) == 1
    assert 0 <= neighbour_overlap(vectors, others) <= 1


@given(st.integers(0, 100))
def test_neighbour_overlap_does_not_depend_on_the_axes(seed: int) -> None:
    vectors = unit_vectors(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))

    turned = (vectors.astype(np.float64) @ turn).astype(np.float32)

    # Not exactly: rounding may swap two neighbours that are equally near.
    assert neighbour_overlap(vectors, turned) > 0.99


def scores(seed: int, num_labels: int = 3) -> list[np.ndarray]:
    rows = np.random.default_rng(seed).dirichlet(np.ones(num_labels), size=NUM_TEXTS)
    return [row[None] for row in rows]


def test_scores_that_are_the_same_agree_fully() -> None:
    report = compare_scores(scores(0), scores(0), TEXTS, precision="f32")

    assert (report.max_difference, report.agreement) == (0, 1)
    assert report.num_decisions > NUM_TEXTS / 2
    require_accuracy(report, backend="openvino")


def test_one_score_off_is_found_and_its_text_named() -> None:
    candidate = scores(0)
    candidate[17] = candidate[17] + np.array([[0.001, -0.001, 0]])

    report = compare_scores(scores(0), candidate, TEXTS, precision="f32")

    assert report.max_difference == pytest.approx(0.001)
    assert report.worst_samples[0].text == "text number 17"
    with pytest.raises(AccuracyError, match="text number 17"):
        require_accuracy(report, backend="openvino")


def test_labels_that_change_places_are_no_agreement() -> None:
    reversed_scores = [row[:, ::-1] for row in scores(0)]

    report = compare_scores(scores(0), reversed_scores, TEXTS, precision="bf16")

    assert report.agreement < 0.7
    assert not report.passed


MANY_TEXTS = [f"text number {number}" for number in range(60)]


def with_noise(vectors: Float32, size: float) -> Float32:
    noise = np.random.default_rng(2).normal(size=vectors.shape) * size / np.sqrt(vectors.shape[1])
    return (vectors + noise).astype(np.float32)


@pytest.mark.parametrize(
    ("noise", "failure"),
    [
        (0.01, None),
        (0.12, "cosine mean"),
        # Cosines of 0.997, and neighbours that change places: 16 dimensions hold few of them.
        (0.07, "neighbour overlap"),
    ],
)
def test_8_bit_is_judged_by_all_texts_together(noise: float, failure: str | None) -> None:
    vectors = unit_vectors(0, len(MANY_TEXTS))

    report = compare_vectors(vectors, with_noise(vectors, noise), MANY_TEXTS, precision="int8")

    assert report.limits == INT8_LIMITS
    assert report.passed is (failure is None)
    if failure:
        assert f"{failure} 0." in report.failure
        assert "is wanted" in report.failure


def test_a_handful_of_golden_inputs_is_judged_by_the_worst_alone() -> None:
    vectors = unit_vectors(0, 8)

    report = compare_vectors(vectors, with_noise(vectors, 0.12), TEXTS[:8], precision="int8")

    assert report.limits is None
    assert report.passed


def test_one_vector_that_points_elsewhere_fails_8_bit_too() -> None:
    vectors = unit_vectors(0, len(MANY_TEXTS))

    report = compare_vectors(vectors, rotated(vectors, 3, degrees=25), MANY_TEXTS, precision="int8")

    assert not report.passed


@given(st.integers(0, 100))
def test_the_order_of_similarities_is_compared_not_their_size(seed: int) -> None:
    vectors = unit_vectors(seed, 20).astype(np.float64)
    others = unit_vectors(seed + 1, 20).astype(np.float64)

    assert similarity_correlation(vectors, vectors) == pytest.approx(1)
    assert similarity_correlation(vectors, others) < 0.5
    assert similarity_correlation(vectors[:2], others[:2]) == 1


def test_rows_that_are_all_alike_have_nothing_to_order() -> None:
    alike = np.ones((5, 4)) / 2

    assert similarity_correlation(alike, alike) == 1
