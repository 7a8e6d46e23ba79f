"""The gate of classifiers: the scores people see, and what is decided by them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from tests.builder.tiny_models import (
    save_checkpoint,
    save_model,
    tiny_bert,
    tiny_classifier,
    tiny_token_classifier,
)

from beicli.artifact.accuracy import MAX_SCORE_DIFFERENCE, compare, compare_scores
from beicli.artifact.golden import Float32
from beicli.artifact.report import ScoreReport, VectorReport
from beicli.builder.gate import require_accuracy
from beicli.errors import AccuracyError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, ScoreActivation

NUM_SAMPLES = 20
SAMPLES = [f"text number {number}" for number in range(NUM_SAMPLES)]


def scores(seed: int, *shape: int) -> list[np.ndarray]:
    source = np.random.default_rng(seed)
    return [source.uniform(size=shape) for _ in range(NUM_SAMPLES)]


def changed(
    values: list[np.ndarray], sample: int, *changes: tuple[object, float]
) -> list[np.ndarray]:
    copies = [value.copy() for value in values]
    for place, difference in changes:
        copies[sample][place] += difference
    return copies


def test_an_engine_that_says_the_same_agrees_fully() -> None:
    values = scores(0, 4)

    report = compare_scores(values, values, SAMPLES, precision="f32")

    assert (report.max_difference, report.mean_difference, report.agreement) == (0, 0, 1)
    assert report.num_decisions == NUM_SAMPLES
    assert report.passed
    require_accuracy(report, backend="openvino")


def test_one_score_off_is_found_and_its_text_named() -> None:
    values = scores(0, 4)
    found = changed(values, 17, (2, 0.01))

    report = compare_scores(values, found, SAMPLES, precision="f32")

    assert report.max_difference == pytest.approx(0.01)
    assert report.mean_difference == pytest.approx(0.01 / NUM_SAMPLES)
    with pytest.raises(AccuracyError, match=r"a score is 0\.010000 off for 'text number 17'"):
        require_accuracy(report, backend="openvino")


def test_the_score_of_every_token_counts() -> None:
    values = scores(0, 6, 3)
    found = changed(values, 4, ((5, 2), -0.02))

    report = compare_scores(values, found, SAMPLES, precision="f32")

    assert report.worst_samples[0].text == "text number 4"
    assert report.max_difference == pytest.approx(0.02)
    assert report.num_decisions == NUM_SAMPLES * 6


def test_samples_may_have_different_numbers_of_tokens() -> None:
    values = [np.eye(3)[[0] * length] for length in (1, 5, 2)]

    report = compare_scores(values, values, SAMPLES[:3], precision="f32")

    assert (report.num_decisions, report.agreement) == (8, 1)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, False)])
def test_each_precision_has_its_own_limit(precision: str, share: float, *, passes: bool) -> None:
    values = scores(0, 4)
    found = changed(values, 0, (1, share * MAX_SCORE_DIFFERENCE[precision]))

    assert compare_scores(values, found, SAMPLES, precision=precision).passed is passes


def test_what_is_no_number_is_as_far_off_as_can_be() -> None:
    values = scores(0, 4)

    report = compare_scores(values, changed(values, 9, (1, np.nan)), SAMPLES, precision="bf16")

    assert (report.worst_samples[0].text, report.max_difference) == ("text number 9", 1)
    assert not report.passed


def test_a_label_the_reference_was_sure_of_must_stay_the_best() -> None:
    values = [np.array([0.5, 0.46, 0.04])] * NUM_SAMPLES
    found = changed(values, 2, (0, -0.03), (1, 0.03))

    exact = compare_scores(values, found, SAMPLES, precision="f32")

    assert exact.agreement == pytest.approx(1 - 1 / NUM_SAMPLES)
    # In bf16 a score may be off by more than these labels are apart: nothing is decided.
    assert compare_scores(values, found, SAMPLES, precision="bf16").num_decisions == 0


def test_decisions_that_change_fail_a_build_even_where_no_score_is_far_off() -> None:
    values = scores(0, 4)
    report = compare_scores(values, values, SAMPLES, precision="bf16")

    with pytest.raises(
        AccuracyError, match=r"95\.00% of 13 clear decisions are the same, at least"
    ):
        require_accuracy(replace(report, agreement=0.95), backend="openvino")


def test_with_one_label_the_order_of_the_samples_is_what_is_decided() -> None:
    values = [np.array([0.1 * number]) for number in range(5)]
    swapped = changed(values, 1, (0, 0.15))

    report = compare_scores(values, swapped, SAMPLES[:5], precision="f32")

    assert report.num_decisions == 4
    assert report.agreement == pytest.approx(3 / 4)


def test_samples_that_score_alike_decide_nothing() -> None:
    values = [np.array([0.5])] * 5

    report = compare_scores(values, values, SAMPLES[:5], precision="f32")

    assert (report.num_decisions, report.agreement) == (0, 1)
    assert report.passed


def test_pairs_are_named_by_the_start_of_both_texts() -> None:
    pairs = [("q" * 100, "d" * 100)]
    values = [np.array([0.5, 0.5])]

    report = compare_scores(values, values, pairs, precision="f32")

    assert report.worst_samples[0].text == "q" * 40 + " | " + "d" * 40


def test_a_report_is_plain_json() -> None:
    report = compare_scores(scores(0, 3), scores(1, 3), SAMPLES, precision="bf16")

    data = json.loads(json.dumps(asdict(report), allow_nan=False))

    assert list(data) == list(ScoreReport.__dataclass_fields__)
    assert data["measure"] == "scores"
    assert data["worst_samples"][0]["difference"] == report.max_difference


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    directory = tmp_path_factory.mktemp("spec") / "classifier"
    return inspect_checkpoint(save_model(directory, tiny_classifier("A", "B", "C")))


def logits(*rows: object) -> list[Float32]:
    return [np.array(row, dtype=np.float32) for row in rows]


def test_logits_are_compared_as_the_scores_people_see(spec: ModelSpec) -> None:
    # Softmax does not change when all logits move together; sigmoid does.
    reference, candidate = logits([1, 2, 3], [0, 0, 9]), logits([2, 3, 4], [0, 0, 9])

    softmax = compare(reference, candidate, SAMPLES[:2], spec=spec, precision="f32")
    independent = replace(spec, score_activation=ScoreActivation.SIGMOID)
    sigmoid = compare(reference, candidate, SAMPLES[:2], spec=independent, precision="f32")

    assert isinstance(softmax, ScoreReport)
    assert isinstance(sigmoid, ScoreReport)
    assert softmax.max_difference < 1e-6
    wanted = [1 / (1 + np.exp(-x)) for x in (1, 2)]
    assert sigmoid.max_difference == pytest.approx(wanted[1] - wanted[0], abs=1e-6)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_overflow_in_neither_activation(spec: ModelSpec, size: float) -> None:
    values = logits([size, 0, 0])

    for activation in ScoreActivation:
        changed_spec = replace(spec, score_activation=activation)
        report = compare(values, values, SAMPLES[:1], spec=changed_spec, precision="f32")
        assert report.passed


def test_each_task_has_its_measure(tmp_path: Path) -> None:
    tokens = inspect_checkpoint(save_model(tmp_path / "tokens", tiny_token_classifier("O", "B")))
    embedding = inspect_checkpoint(save_checkpoint(tmp_path / "embedding", tiny_bert()))

    by_token = compare(
        logits(np.eye(2), np.ones((7, 2))),
        logits(np.eye(2), np.ones((7, 2))),
        SAMPLES[:2],
        spec=tokens,
        precision="f32",
    )
    by_vector = compare(
        logits([1, 0], [0, 1]), logits([1, 0], [0, 1]), SAMPLES[:2], spec=embedding, precision="f32"
    )

    assert isinstance(by_token, ScoreReport)
    assert isinstance(by_vector, VectorReport)


def test_an_output_of_another_shape_names_its_sample(spec: ModelSpec) -> None:
    reference, candidate = logits([1, 2, 3], [1, 2, 3]), logits([1, 2, 3], [1, 2])

    with pytest.raises(AccuracyError, match=r"shape \(2,\) for 'text number 1', .* \(3,\)"):
        compare(reference, candidate, SAMPLES[:2], spec=spec, precision="f32")
