import re

import pytest
from tests.server.fakes import FakeEngine, ask_all

EMBEDDINGS = "/v1/embeddings"


def scrape(*bodies: object, engine: FakeEngine | None = None) -> dict[str, float]:
    """Samples of `/metrics` by name and labels, after some embeddings requests."""
    requests = [("POST", EMBEDDINGS, {"json": body}) for body in bodies]
    page = ask_all([*requests, ("GET", "/metrics", {})], engine=engine)[-1]
    lines = [line for line in page.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_each_request_is_counted_once_by_method() -> None:
    samples = scrape({"input": "w1"}, {"input": ["w1"]}, {"input": ["w1", "w2"]})

    for name in ("te_request_count", "te_request_success"):
        assert samples[name + '{method="single"}'] == 1
        assert samples[name + '{method="batch"}'] == 2
    assert samples["te_embed_count"] == samples["te_embed_success"] == 4
    for name in ("", "_tokenization", "_queue", "_inference"):
        assert samples[f"te_request{name}_duration_count"] == 3
    assert samples["te_embed_duration_count"] == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"input": []}, "validation"),
        ({"input": ["w1"] * 129}, "batch_size"),
        ({"input": "w1", "dimensions": 0}, "validation"),
        ({"input": "w2"}, "inference"),
    ],
)
def test_a_failed_request_is_counted_by_its_reason(body: object, reason: str) -> None:
    samples = scrape(body, engine=FakeEngine(poison_id=6))

    assert samples[f'te_request_failure{{err="{reason}"}}'] == 1
    assert sum(value for name, value in samples.items() if "success" in name) == 0


def test_batches_are_observed_with_and_without_padding() -> None:
    samples = scrape({"input": ["w1", "w1 w2 w3"]})

    assert samples["te_batch_next_size_sum"] == 2
    assert samples["te_batch_next_tokens_sum"] == 3 + 5
    assert samples["bei_batch_padded_tokens_total"] == 2 * 5


def test_cut_inputs_are_counted() -> None:
    samples = scrape({"input": ["w1 " * 40, "w1"]}, {"input": "w1 " * 40})

    assert samples["bei_truncated_inputs_total"] == 2


def test_the_queue_is_read_when_the_page_is_asked_for() -> None:
    assert scrape()["te_queue_size"] == 0


def test_counters_are_called_what_text_embeddings_inference_calls_them() -> None:
    response = ask_all([("GET", "/metrics", {})])[0]

    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    types = dict(re.findall(r"# TYPE (\S+) (\S+)", response.text))
    assert types == {
        "te_request_count": "counter",
        "te_request_success": "counter",
        "te_request_failure": "counter",
        "te_embed_count": "counter",
        "te_embed_success": "counter",
        "te_request_duration": "histogram",
        "te_request_tokenization_duration": "histogram",
        "te_request_queue_duration": "histogram",
        "te_request_inference_duration": "histogram",
        "te_embed_duration": "histogram",
        "te_queue_size": "gauge",
        "te_batch_next_size": "histogram",
        "te_batch_next_tokens": "histogram",
        "bei_batch_padded_tokens_total": "counter",
        "bei_truncated_inputs_total": "counter",
    }
