import re

import pytest
from tests.server.fakes import FakeEngine, ask

from beicli.model.spec import Task
from beicli.pipeline.results import Timing
from beicli.server.timings import server_timing


def parts(header: str) -> dict[str, float]:
    """Return the milliseconds of each part."""
    return {name: float(dur) for name, dur in re.findall(r"(\w+);dur=([0-9.]+)", header)}


def test_each_part_is_told_in_milliseconds() -> None:
    timing = Timing(tokenization_s=0.0001234, queue_s=0.0, inference_s=1.5)

    value = server_timing(timing, 1.75)

    assert value == (
        "tokenize;dur=0.123, queue;dur=0.000, inference;dur=1500.000, total;dur=1750.000"
    )


@pytest.mark.parametrize(
    ("task", "path", "body"),
    [
        (Task.EMBEDDING, "/v1/embeddings", {"input": "w1"}),
        (Task.EMBEDDING, "/vertex", {"instances": [{"inputs": "w1"}, {"inputs": "w2"}]}),
        (Task.RERANKING, "/rerank", {"query": "w1", "texts": ["w2"]}),
        (Task.TOKEN_CLASSIFICATION, "/predict_tokens", {"inputs": [["w1"]]}),
    ],
)
def test_an_answer_of_the_model_tells_its_parts(
    task: Task, path: str, body: dict[str, object]
) -> None:
    found = parts(ask("POST", path, engine=FakeEngine(task), json=body).headers["server-timing"])

    assert list(found) == ["tokenize", "queue", "inference", "total"]
    # Of several inputs queue and inference are means, and those of a `/vertex` overlap.
    assert 0 < found["inference"] <= found["total"]


def test_an_answer_without_the_model_has_none() -> None:
    response = ask("POST", "/tokenize", json={"inputs": "w1"})

    assert "server-timing" not in response.headers
