"""A real reranker behind a real server scores and orders as transformers does."""

import itertools
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

MAX_DIFFERENCE = {"f32": 1e-4, "bf16": 2e-2}
# Pairs of texts whose scores are nearer than this may change places.
MIN_MARGIN = 0.01
NUM_QUESTIONS = 50


@pytest.fixture(scope="module")
def reranker(build_example: Callable[[str, str], Path], precision: str) -> Iterator[RunningServer]:
    with serving(build_example("tiny-reranker", precision)) as running:
        yield running


@pytest.fixture(scope="module")
def questions(models_directory: Path) -> list[dict[str, Any]]:
    text = (models_directory / "tiny-reranker" / "held_out.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    return rows[:NUM_QUESTIONS]


@pytest.fixture(scope="module")
def expected(models_directory: Path, questions: list[dict[str, Any]]) -> np.ndarray:
    """[num_questions, num_documents], what transformers gives, one pair at a time."""
    checkpoint = models_directory / "tiny-reranker"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        logits = [
            [
                float(
                    model(
                        **tokenizer(row["query"], text, truncation=True, return_tensors="pt")
                    ).logits[0, 0]
                )
                for text in row["documents"]
            ]
            for row in questions
        ]
    return np.asarray(1 / (1 + np.exp(-np.array(logits))))


def test_scores_and_order_are_those_of_transformers(
    reranker: RunningServer,
    questions: list[dict[str, Any]],
    expected: np.ndarray,
    precision: str,
) -> None:
    client = PerformanceClient(base_url=reranker.url, api_key="none")

    scores = np.zeros_like(expected)
    for row, question in enumerate(questions):
        answer = client.rerank(
            query=question["query"], texts=question["documents"], truncate=True, return_text=True
        )
        for item in answer.data:
            scores[row, item.index] = item.score
            assert item.text == question["documents"][item.index]

    assert np.abs(scores - expected).max() <= MAX_DIFFERENCE[precision]
    num_pairs = num_kept = 0
    for row in range(len(questions)):
        for a, b in itertools.combinations(range(scores.shape[1]), 2):
            margin = expected[row, a] - expected[row, b]
            if abs(margin) > MIN_MARGIN:
                num_pairs += 1
                num_kept += np.sign(margin) == np.sign(scores[row, a] - scores[row, b])
    assert num_pairs > 1000
    assert num_kept >= 0.99 * num_pairs


def test_every_rerank_route_gives_the_same_scores(
    reranker: RunningServer, questions: list[dict[str, Any]]
) -> None:
    query, documents = questions[0]["query"], questions[0]["documents"]

    plain = post(reranker, "/rerank", {"query": query, "texts": documents})
    cohere = post(reranker, "/v2/rerank", {"query": query, "documents": documents})["results"]
    pairs = [[query, document] for document in documents]
    predicted = post(reranker, "/predict", {"inputs": pairs})

    scores = np.array([item["score"] for item in plain])
    assert [item["index"] for item in plain] == list(range(len(documents)))
    by_index = sorted(cohere, key=lambda item: item["index"])
    np.testing.assert_allclose([item["relevance_score"] for item in by_index], scores, atol=1e-3)
    np.testing.assert_allclose([answer[0]["score"] for answer in predicted], scores, atol=1e-3)
    best_first = [item["relevance_score"] for item in cohere]
    assert best_first == sorted(best_first, reverse=True)
