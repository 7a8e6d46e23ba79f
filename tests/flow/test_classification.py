"""A real classifier behind a real server says what transformers says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseten_performance_client import PerformanceClient
from tests.flow.conftest import RunningServer, post, serving
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.models

MAX_DIFFERENCE = {"f32": 1e-4, "bf16": 3e-2}
LABELS = ("NEGATIVE", "POSITIVE")


@pytest.fixture(scope="module")
def classifier(
    build_example: Callable[[str, str], Path], precision: str
) -> Iterator[RunningServer]:
    with serving(build_example("tiny-sentiment", precision)) as running:
        yield running


@pytest.fixture(scope="module")
def held_out(models_directory: Path) -> list[dict[str, str]]:
    text = (models_directory / "tiny-sentiment" / "held_out.json").read_text(encoding="utf-8")
    rows: list[dict[str, str]] = json.loads(text)
    return rows[:500]


@pytest.fixture(scope="module")
def reference(models_directory: Path) -> Callable[..., np.ndarray]:
    checkpoint = models_directory / "tiny-sentiment"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32
    ).eval()

    def logits(*texts: str) -> np.ndarray:
        with torch.no_grad():
            encoded = tokenizer(*texts, truncation=True, return_tensors="pt")
            return np.asarray(model(**encoded).logits[0])

    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def by_label(scores: list[dict[str, Any]]) -> np.ndarray:
    values = {item["label"]: item["score"] for item in scores}
    return np.array([values[label] for label in LABELS])


def test_scores_are_those_of_transformers_and_right_as_often(
    classifier: RunningServer,
    held_out: list[dict[str, str]],
    reference: Callable[..., np.ndarray],
    precision: str,
) -> None:
    texts = [row["text"] for row in held_out]
    client = PerformanceClient(base_url=classifier.url, api_key="none")

    answers = client.classify(inputs=texts, truncate=True).data

    scores = np.array(
        [by_label([{"label": i.label, "score": i.score} for i in answer]) for answer in answers]
    )
    expected = np.array([softmax(reference(text)) for text in texts])
    assert np.abs(scores - expected).max() <= MAX_DIFFERENCE[precision]
    right = [answer[0].label == row["label"] for answer, row in zip(answers, held_out, strict=True)]
    assert np.mean(right) >= 0.75


def test_pairs_carry_type_ids(
    classifier: RunningServer, reference: Callable[..., np.ndarray], precision: str
) -> None:
    pairs = [["A film.", "Wonderful in every way."], ["Wonderful in every way.", "A film."]]
    long_pair = ["so dull " * 400, "great"]

    answers = post(classifier, "/predict", {"inputs": [*pairs, long_pair]})

    for pair, answer in zip([*pairs, long_pair], answers, strict=True):
        expected = softmax(reference(*pair))
        assert np.abs(by_label(answer) - expected).max() <= MAX_DIFFERENCE[precision]


def test_raw_scores_are_logits(
    classifier: RunningServer, reference: Callable[..., np.ndarray], precision: str
) -> None:
    text = "An instant classic."

    answer = post(classifier, "/predict", {"inputs": text, "raw_scores": True})

    assert np.abs(by_label(answer) - reference(text)).max() <= 10 * MAX_DIFFERENCE[precision]
    assert [item["score"] for item in answer] == sorted(
        (item["score"] for item in answer), reverse=True
    )
