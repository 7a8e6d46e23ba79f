"""Real named entities behind a real server are those of transformers' own pipeline."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from baseten_performance_client import PerformanceClient
from tests.flow.conftest import RunningServer, post, serving
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

pytestmark = pytest.mark.models

MAX_DIFFERENCE = {"f32": 1e-4, "bf16": 2e-2}
STRATEGIES = ("simple", "first", "average", "max")
TEXTS = [
    "John Smith lives at 742 Evergreen Terrace, Springfield.",
    "Write to maria.garcia@example.org or call +1 (555) 010-9999 — ask for María 👩🏽‍🔬.",
    "السيد أحمد يسكن في القاهرة, Cairo.\r\nPassport: X1234567",
    "李雷 and Hannah O'Neil-Müller met at 10 Downing Street,\tLondon SW1A 2AA",
    "no entity here at all",
]


@pytest.fixture(scope="module")
def server(build_example: Callable[[str, str], Path], precision: str) -> Iterator[RunningServer]:
    with serving(build_example("rampart-ner", precision)) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(models_directory: Path) -> Any:
    checkpoint = models_directory / "rampart-ner"
    return pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(checkpoint).float(),
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_those_of_transformers(
    server: RunningServer, oracle: Any, strategy: str, precision: str
) -> None:
    answers = post(
        server,
        "/predict_tokens",
        {"inputs": [[text] for text in TEXTS], "aggregation_strategy": strategy},
    )

    num_entities = 0
    for text, entities in zip(TEXTS, answers, strict=True):
        expected = oracle(text, aggregation_strategy=strategy)
        found = [(*entity["results"], entity["start"], entity["end"]) for entity in entities]
        assert found == [(e["entity_group"], e["start"], e["end"]) for e in expected], text
        for entity, wanted in zip(entities, expected, strict=True):
            assert entity["token"] == text[entity["start"] : entity["end"]]
            (score,) = entity["results"].values()
            assert score == pytest.approx(float(wanted["score"]), abs=MAX_DIFFERENCE[precision])
        num_entities += len(entities)
    assert num_entities > 8


def test_every_token_comes_back_special_ones_included(server: RunningServer, oracle: Any) -> None:
    payloads = [{"inputs": [[text]], "raw_scores": False} for text in TEXTS]
    client = PerformanceClient(base_url=server.url, api_key="none")

    answers = client.batch_post("/predict_tokens", payloads).data

    for text, (entries,) in zip(TEXTS, answers, strict=True):
        assert [entry["token_id"] for entry in entries] == oracle.tokenizer(text)["input_ids"]


def test_a_text_beyond_the_window_is_read_in_overlapping_windows(server: RunningServer) -> None:
    sentence = "Nothing happened on that day, as on so many days before it. "
    text = sentence * 60 + "Then John Smith came home. " + sentence * 60

    body = {"inputs": text, "aggregation_strategy": "max"}
    cut = post(server, "/predict_tokens", {**body, "truncate": True})[0]
    whole = post(server, "/predict_tokens", {**body, "truncate": False})[0]

    place = text.index("John")
    assert not any(entity["start"] >= place for entity in cut)
    found = {entity["token"] for entity in whole if entity["start"] >= place}
    assert {"John", "Smith"} <= found
