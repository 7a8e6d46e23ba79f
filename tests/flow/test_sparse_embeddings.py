"""A real SPLADE model behind a real server gives the reference's words and weights."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.flow.conftest import RunningServer, post, serving
from transformers import AutoModelForMaskedLM, AutoTokenizer

pytestmark = pytest.mark.models

# Weights reach 3, of which bf16 keeps 8 bits.
MAX_DIFFERENCE = {"f32": 1e-4, "bf16": 1e-1}
# Entries below this may appear or vanish with the rounding of the precision.
NEGLIGIBLE = {"f32": 1e-4, "bf16": 1e-1}
MIN_COSINE = {"f32": 0.9999, "bf16": 0.999}
TEXTS = [
    "tallest mountain in the world",
    "How do I reset my password?",
    "Refund policy for damaged goods, and who pays the postage " * 20,
    "ha",
]


@pytest.fixture(scope="module")
def server(build_example: Callable[[str, str], Path], precision: str) -> Iterator[RunningServer]:
    with serving(build_example("splade-bert-tiny", precision)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(models_directory: Path) -> list[np.ndarray]:
    checkpoint = models_directory / "splade-bert-tiny"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForMaskedLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            encoded = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
            logits = model(**encoded).logits[0]
            rows.append(np.asarray(torch.log1p(torch.relu(logits)).amax(dim=0)))
    return rows


def test_words_and_weights_are_those_of_the_reference(
    server: RunningServer, expected: list[np.ndarray], precision: str
) -> None:
    answers = post(server, "/embed_sparse", {"inputs": TEXTS})

    for answer, weights in zip(answers, expected, strict=True):
        found = np.zeros_like(weights)
        for entry in answer:
            found[entry["index"]] = entry["value"]
        assert np.abs(found - weights).max() <= MAX_DIFFERENCE[precision]
        cosine = found @ weights / (np.linalg.norm(found) * np.linalg.norm(weights))
        assert cosine >= MIN_COSINE[precision]
        large = set(np.flatnonzero(weights > NEGLIGIBLE[precision]))
        assert large <= {entry["index"] for entry in answer}
        assert all(entry["value"] > 0 for entry in answer)


def test_dense_routes_are_refused_with_the_way_out(server: RunningServer) -> None:
    error = post(server, "/v1/embeddings", {"input": "a"}, status=424)["error"]

    assert error["message"] == "Backend error: Model is not an embedding model"
    assert "/embed_sparse" in error["hint"]
