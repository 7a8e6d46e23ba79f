import re
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from tests.server.fakes import DIMENSION, FakeEngine, ask_all, live_server, wait_until

from beicli import __version__
from beicli.model.spec import Task
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.pipeline.result_cache import ENTRY_OVERHEAD_BYTES
from beicli.scheduler.scheduler import FinishedBatch
from beicli.server.exchange import Admission
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions

EMBEDDINGS = "/v1/embeddings"


def scrape(
    *bodies: object,
    engine: FakeEngine | None = None,
    route: str = EMBEDDINGS,
    result_cache_bytes: int = 0,
) -> dict[str, float]:
    """Samples of `/metrics` by name and labels, after some requests."""
    requests = [("POST", route, {"json": body}) for body in bodies]
    options = ServerOptions(pipeline=PipelineLimits(result_cache_bytes=result_cache_bytes))
    responses = ask_all([*requests, ("GET", "/metrics", {})], engine=engine, options=options)
    return parse_samples(responses[-1].text)


def parse_samples(page: str) -> dict[str, float]:
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_each_request_is_counted_once_by_method() -> None:
    samples = scrape({"input": "w1"}, {"input": ["w1"]}, {"input": ["w1", "w2"]})

    for name in ("te_request_count", "te_request_success"):
        assert samples[name + '{method="single"}'] == 1
        assert samples[name + '{method="batch"}'] == 2
    assert samples["te_embed_count"] == samples["te_embed_success"] == 4
    for part in ("", "_tokenization", "_queue", "_inference"):
        assert samples[f"te_request{part}_duration_count"] == 3
        assert samples[f"te_embed{part}_duration_count"] == 3


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


def test_a_batch_is_observed_with_its_time_and_its_share_of_padding() -> None:
    samples = scrape({"input": ["w1", "w1 w2 w3"]}, engine=FakeEngine(num_slots=3))

    assert samples["bei_batch_duration_count"] == samples["bei_batch_padding_share_count"] == 1
    assert samples["bei_batch_padding_share_sum"] == pytest.approx(2 / 10)
    # Busy slots are the seconds computed in a second; so many there are.
    assert samples["bei_slots"] == 3
    assert samples["bei_slot_busy_seconds_total"] >= samples["bei_batch_duration_sum"] > 0


@pytest.mark.parametrize(("estimated_s", "num_observed"), [(None, 0), (3.0, 1)])
def test_an_estimate_is_compared_with_what_a_batch_took(
    estimated_s: float | None, num_observed: int
) -> None:
    metrics = ServerMetrics()

    metrics.observe_batch(
        FinishedBatch(
            num_sequences=1,
            num_tokens=3,
            num_padded_tokens=3,
            inference_s=2.0,
            estimated_s=estimated_s,
        )
    )

    samples = parse_samples(metrics.render().decode())
    assert samples["bei_batch_estimate_ratio_count"] == num_observed
    assert samples["bei_batch_estimate_ratio_sum"] == 1.5 * num_observed


@pytest.mark.parametrize(
    ("path", "request_", "reason"),
    [
        (EMBEDDINGS, {"json": {"input": []}}, "empty_input"),
        (EMBEDDINGS, {"json": {"input": "w1", "dimensions": 0}}, "invalid_value"),
        (EMBEDDINGS, {"json": {"input": "w1 " * 40, "truncate": False}}, "input_too_long"),
        ("/tokenize", {"json": {"inputs": "w1 " * 2000}}, "input_too_long"),
        (EMBEDDINGS, {"json": {"input": "w2"}}, "engine_error"),
        (EMBEDDINGS, {"content": b"{"}, "unsupported_media_type"),
        (EMBEDDINGS, {"json": {"input": "w1 " * 700_000}}, "payload_too_large"),
        ("/no-such-route", {}, "unknown_url"),
    ],
)
def test_what_gets_no_answer_is_counted_by_its_reason(
    path: str, request_: dict[str, object], reason: str
) -> None:
    responses = ask_all(
        [("POST", path, request_), ("GET", "/metrics", {})],
        engine=FakeEngine(poison_id=6),
        options=ServerOptions(max_body_bytes=1_000_000),
    )

    samples = parse_samples(responses[-1].text)
    found = {name: value for name, value in samples.items() if "bei_failed" in name}
    assert found == {f'bei_failed_requests_total{{reason="{reason}"}}': 1}


def test_those_without_a_key_and_those_too_many_are_counted_as_well() -> None:
    requests: list[tuple[str, str, dict[str, object]]] = [
        ("POST", EMBEDDINGS, {"json": {"input": "w1"}}),
        ("POST", EMBEDDINGS, {"json": {"input": "w1"}, "headers": {"authorization": "Bearer k"}}),
        ("GET", "/metrics", {}),
    ]
    options = ServerOptions(api_keys=("k",))

    page = ask_all(requests, options=options, admission=Admission(0))[-1].text

    samples = parse_samples(page)
    assert samples['bei_failed_requests_total{reason="invalid_api_key"}'] == 1
    assert samples['bei_failed_requests_total{reason="rate_limit_exceeded"}'] == 1


def test_a_batch_that_hangs_keeps_its_slot_busy() -> None:
    engine = FakeEngine()
    with live_server(engine) as server, httpx2.Client(base_url=server.url) as client:
        engine.gate.clear()
        with ThreadPoolExecutor(1) as others:
            waiting = others.submit(client.post, EMBEDDINGS, json={"input": "w1"})
            wait_until(lambda: server.pipeline.stalled_for_s() > 0.05)
            samples = parse_samples(client.get("/metrics").text)
            engine.gate.set()
            assert waiting.result().status_code == 200

    assert samples["bei_slot_busy_seconds_total"] > 0.05
    # The other connection is the one that asks.
    assert (samples["bei_open_requests"], samples["bei_open_connections"]) == (1, 2)


def test_encoding_is_what_remains_of_a_request_once_it_is_computed() -> None:
    samples = scrape({"input": "w1"}, {"input": ["w1", "w2"]})

    assert samples["bei_encode_duration_count"] == 2
    assert samples["bei_encode_duration_sum"] == pytest.approx(
        samples["te_request_duration_sum"] - samples["te_embed_duration_sum"]
    )


def test_cut_inputs_are_counted() -> None:
    samples = scrape({"input": ["w1 " * 40, "w1"]}, {"input": "w1 " * 40})

    assert samples["bei_truncated_inputs_total"] == 2


def test_the_queue_is_read_when_the_page_is_asked_for() -> None:
    assert scrape()["te_queue_size"] == 0


def test_the_wait_is_nothing_when_nothing_waits() -> None:
    assert scrape({"input": "w1"})["bei_estimated_wait_seconds"] == 0


def test_the_cache_of_results_is_counted_where_there_is_one() -> None:
    bodies = [{"input": ["w1", "w2"]}, {"input": ["w2", "w3", "w1"]}]

    without = scrape(*bodies)
    samples = scrape(*bodies, result_cache_bytes=1000)

    found = {name: value for name, value in samples.items() if "cache" in name}
    # Two such results fit; the third drove out the first.
    size = 4 * DIMENSION + 4 * 3 + ENTRY_OVERHEAD_BYTES
    assert found == {
        "bei_result_cache_hits_total": 2,
        "bei_result_cache_misses_total": 3,
        "bei_result_cache_evictions_total": 1,
        "bei_result_cache_bytes": 2 * size,
    }
    assert not any("cache" in name for name in without)
    assert samples["te_request_input_length_sum"] == without["te_request_input_length_sum"]


def test_token_counts_of_inputs_are_observed_before_truncation() -> None:
    samples = scrape({"input": ["w1 " * 40, "w1"]})

    assert samples["te_request_input_length_count"] == 2
    assert samples["te_request_input_length_sum"] == 42 + 3
    assert samples['te_request_input_length_bucket{le="4.0"}'] == 1


def test_every_answer_is_counted_by_its_route_and_status() -> None:
    requests: list[tuple[str, str, dict[str, object]]] = [
        ("POST", EMBEDDINGS, {"json": {"input": "w1"}}),
        ("POST", f"/production/sync{EMBEDDINGS}", {"json": {"input": "w1"}}),
        ("POST", EMBEDDINGS, {"json": {"input": []}}),
        ("DELETE", EMBEDDINGS, {}),
        ("GET", "/v1/models/a/b", {}),
        ("GET", "/no-such-route", {}),
        ("GET", "/nor/this", {}),
        ("GET", "/health", {}),
    ]

    samples = parse_samples(ask_all([*requests, ("GET", "/metrics", {})])[-1].text)

    found = {name: value for name, value in samples.items() if name.startswith("bei_requests")}
    assert found == {
        'bei_requests_total{route="/v1/embeddings",status="200"}': 2,
        'bei_requests_total{route="/v1/embeddings",status="400"}': 1,
        'bei_requests_total{route="/v1/embeddings",status="405"}': 1,
        'bei_requests_total{route="/v1/models/{model_id}",status="404"}': 1,
        'bei_requests_total{route="unknown",status="404"}': 2,
        'bei_requests_total{route="/health",status="200"}': 1,
    }


def test_the_page_says_what_is_served() -> None:
    samples = scrape()

    labels = 'backend="openvino",model="tiny",precision="f32",task="embedding"'
    assert samples[f'bei_build_info{{{labels},version="{__version__}"}}'] == 1


@pytest.mark.parametrize(
    ("task", "route", "body"),
    [
        (Task.CLASSIFICATION, "/predict", {"inputs": [["w1"], ["w2 w3"]]}),
        (Task.RERANKING, "/rerank", {"query": "w1", "texts": ["w2", "w3"]}),
        (Task.TOKEN_CLASSIFICATION, "/predict_tokens", {"inputs": [["w1"], ["w2"]]}),
    ],
)
def test_scores_are_counted_in_a_family_of_their_own(
    task: Task, route: str, body: dict[str, object]
) -> None:
    samples = scrape(body, engine=FakeEngine(task), route=route)

    assert samples["te_predict_count"] == samples["te_predict_success"] == 2
    assert samples["te_embed_count"] == 0
    for part in ("", "_tokenization", "_queue", "_inference"):
        assert samples[f"te_predict{part}_duration_count"] == 1
        assert samples[f"te_embed{part}_duration_count"] == 0
    assert (
        samples['te_request_success{method="single"}']
        + samples['te_request_success{method="batch"}']
        == samples["te_request_duration_count"]
        == 1
    )


@pytest.mark.parametrize(
    ("route", "body"), [("/tokenize", {"inputs": "w1"}), ("/decode", {"ids": [4]})]
)
def test_a_request_that_asks_no_model_is_in_no_family(route: str, body: dict[str, object]) -> None:
    samples = scrape(body, route=route)

    assert samples['te_request_success{method="single"}'] == 1
    assert samples["te_embed_count"] == samples["te_predict_count"] == 0
    assert samples["te_request_tokenization_duration_count"] == 0


def test_names_are_those_of_text_embeddings_inference() -> None:
    response = ask_all([("GET", "/metrics", {})])[0]

    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    types = dict(re.findall(r"# TYPE (\S+) (\S+)", response.text))
    durations = {
        f"te_{family}{part}_duration": "histogram"
        for family in ("request", "embed", "predict")
        for part in ("", "_tokenization", "_queue", "_inference")
    }
    counts = {
        f"te_{family}_{name}": "counter"
        for family in ("request", "embed", "predict")
        for name in ("count", "success")
    }
    assert types == durations | counts | {
        "te_request_failure": "counter",
        "te_request_input_length": "histogram",
        "te_queue_size": "gauge",
        "te_batch_next_size": "histogram",
        "te_batch_next_tokens": "histogram",
        "bei_batch_padded_tokens_total": "counter",
        "bei_truncated_inputs_total": "counter",
        "bei_estimated_wait_seconds": "gauge",
        "bei_requests_total": "counter",
        "bei_failed_requests_total": "counter",
        "bei_reloads_total": "counter",
        "bei_batch_duration": "histogram",
        "bei_batch_padding_share": "histogram",
        "bei_batch_estimate_ratio": "histogram",
        "bei_slots": "gauge",
        "bei_slot_busy_seconds_total": "counter",
        "bei_open_requests": "gauge",
        "bei_open_connections": "gauge",
        "bei_encode_duration": "histogram",
        "bei_build_info": "gauge",
    }
