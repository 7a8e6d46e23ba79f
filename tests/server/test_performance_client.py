"""Baseten's Performance Client, unchanged, against the real server: all but embeddings."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests
from baseten_performance_client import (
    ClassificationResponse,
    PerformanceClient,
    RequestProcessingPreference,
    RerankResponse,
)
from tests.server.fakes import (
    FIRST_WORD_ID,
    LABELS,
    MAX_INPUT_LENGTH,
    TIMEOUT_S,
    FakeEngine,
    LiveServer,
    live_server,
    logits,
    wait_until,
    word_ids,
)

from beicli.model.spec import Task

LONG = " ".join(f"w{number}" for number in range(MAX_INPUT_LENGTH))
# More than one request of the client's, which holds eight.
NUMBERS = range(20)
TEXTS = [f"w{number}" for number in NUMBERS]


class Turnstile(threading.Event):
    """A gate that lets one batch through for each step; set, it lets all through."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = threading.Semaphore(0)

    def step(self, num_batches: int) -> None:
        self._steps.release(num_batches)

    def set(self) -> None:
        super().set()
        self._steps.release(1000)

    def wait(self, timeout: float | None = None) -> bool:
        return self._steps.acquire(timeout=timeout)


@pytest.fixture(scope="module")
def reranker() -> Iterator[LiveServer]:
    with live_server(FakeEngine(task=Task.RERANKING)) as live:
        yield live


@pytest.fixture(scope="module")
def classifier() -> Iterator[LiveServer]:
    with live_server(FakeEngine(task=Task.CLASSIFICATION)) as live:
        yield live


@pytest.fixture(scope="module")
def token_classifier() -> Iterator[LiveServer]:
    with live_server(FakeEngine(task=Task.TOKEN_CLASSIFICATION)) as live:
        yield live


def client_of(server: LiveServer) -> PerformanceClient:
    return PerformanceClient(base_url=server.url, api_key="none")


def relevance(number: int) -> float:
    """The fake's logit of the text w1 for number 1 and the query w99."""
    pair = [*word_ids(99), FIRST_WORD_ID + number, 3]
    return float(logits(pair, Task.RERANKING)[0])


def check_ranking(response: RerankResponse) -> None:
    """Check a ranking of TEXTS with raw scores and texts."""
    assert [item.index for item in response.data] == list(NUMBERS)
    assert [item.text for item in response.data] == TEXTS
    scores = [item.score for item in response.data]
    np.testing.assert_allclose(scores, [relevance(number) for number in NUMBERS], atol=1e-6)


def check_classes(response: ClassificationResponse) -> None:
    """Check a classification of TEXTS with raw scores."""
    expected = np.array([logits(word_ids(number)) for number in NUMBERS])
    labels = np.array(LABELS[Task.CLASSIFICATION])[np.argsort(-expected)]
    assert [[item.label for item in items] for items in response.data] == labels.tolist()
    scores = [[item.score for item in items] for items in response.data]
    np.testing.assert_allclose(scores, -np.sort(-expected), atol=1e-6)


def check_tokens(data: list[Any]) -> None:
    """Check what TOKEN_PAYLOADS ask for."""
    assert [[entry["token"] for entry in texts[0]] for texts in data] == [
        ["[CLS]", text, "[SEP]"] for text in TEXTS
    ]


TOKEN_PAYLOADS = [{"inputs": [[text]], "raw_scores": False} for text in TEXTS]


def test_rerank_gets_raw_scores_and_texts_of_several_requests_in_order(
    reranker: LiveServer,
) -> None:
    response = client_of(reranker).rerank(
        query="w99", texts=TEXTS, raw_scores=True, return_text=True, truncate=True, model="any"
    )

    check_ranking(response)
    assert len(response.response_headers) == 3


def test_rerank_by_default_gets_probabilities_without_texts(reranker: LiveServer) -> None:
    response = client_of(reranker).rerank(query="w99", texts=["w1", "w2"])

    expected = 1 / (1 + np.exp([-relevance(1), -relevance(2)]))
    np.testing.assert_allclose([item.score for item in response.data], expected, atol=1e-6)
    assert [item.text for item in response.data] == [None, None]


def test_classify_gets_the_labels_of_each_text_best_first(classifier: LiveServer) -> None:
    check_classes(client_of(classifier).classify(inputs=TEXTS, raw_scores=True, model="any"))


def test_batch_post_gets_tokens_and_entities(token_classifier: LiveServer) -> None:
    client = client_of(token_classifier)

    tokens = client.batch_post("/predict_tokens", TOKEN_PAYLOADS)
    entities = client.batch_post(
        "predict_tokens", [{"inputs": [TEXTS], "aggregation_strategy": "max"}]
    )

    check_tokens(tokens.data)
    ((*per_text,),) = entities.data
    assert len(per_text) == len(TEXTS)
    assert {entry["token_id"] for entries in per_text for entry in entries} == {0}


def test_the_async_forms_get_the_same(
    reranker: LiveServer, classifier: LiveServer, token_classifier: LiveServer
) -> None:
    async def run() -> None:
        ranking, classes, tokens = await asyncio.gather(
            client_of(reranker).async_rerank(
                query="w99", texts=TEXTS, raw_scores=True, return_text=True
            ),
            client_of(classifier).async_classify(inputs=TEXTS, raw_scores=True),
            client_of(token_classifier).async_batch_post("/predict_tokens", TOKEN_PAYLOADS),
        )
        check_ranking(ranking)
        check_classes(classes)
        check_tokens(tokens.data)

    asyncio.run(run())


def test_the_client_may_ask_for_messagepack(reranker: LiveServer) -> None:
    preference = RequestProcessingPreference(extra_headers={"accept": "application/msgpack"})

    response = client_of(reranker).rerank(
        query="w99", texts=TEXTS, raw_scores=True, return_text=True, preference=preference
    )

    check_ranking(response)
    types = {headers["content-type"] for headers in response.response_headers}
    assert types == {"application/msgpack"}


def test_long_texts_are_refused_unless_the_client_lets_them_be_cut(
    reranker: LiveServer, classifier: LiveServer
) -> None:
    with pytest.raises(requests.exceptions.HTTPError, match="must have less than 16 tokens") as one:
        client_of(reranker).rerank(query="w99", texts=[LONG])
    with pytest.raises(requests.exceptions.HTTPError, match="must have less than 16 tokens") as two:
        client_of(classifier).classify(inputs=[LONG])

    assert (one.value.args[0], two.value.args[0]) == (422, 422)
    assert len(client_of(reranker).rerank(query="w99", texts=[LONG], truncate=True).data) == 1
    cut = client_of(classifier).classify(inputs=[LONG], truncate=True, truncation_direction="Left")
    assert len(cut.data) == 1


def test_a_route_the_model_does_not_have_is_an_error_that_is_not_retried(
    classifier: LiveServer,
) -> None:
    with pytest.raises(requests.exceptions.HTTPError, match="use /predict") as caught:
        client_of(classifier).rerank(query="w99", texts=["w1"])

    assert caught.value.args[0] == 424
    failures = b'te_request_failure{err="model_type"} 1.0'
    assert failures in classifier.metrics.render()


def test_a_hedge_has_nothing_computed_twice_and_leaves_nothing_in_the_queue() -> None:
    gate = Turnstile()
    # Every sequence is a batch of its own.
    engine = FakeEngine(task=Task.RERANKING, preferred_num_tokens=1, gate=gate)
    preference = RequestProcessingPreference(hedge_delay=0.1)
    with live_server(engine) as server, ThreadPoolExecutor() as threads:
        pipeline, num_warm_up = server.pipeline, engine.num_sequences
        close(gate)
        answer = threads.submit(
            client_of(server).rerank, "w99", ["w1", "w2", "w3"], preference=preference
        )
        # One text is with the engine, the others wait, each for both requests.
        wait_until(lambda: b'te_request_count{method="batch"} 2.0' in server.metrics.render())
        assert pipeline.num_waiting == 2
        gate.step(3)

        assert len(answer.result(TIMEOUT_S).data) == 3
        gate.set()
        assert len(client_of(server).rerank("w99", ["w4"]).data) == 1
        assert pipeline.num_waiting == 0

    assert engine.num_sequences - num_warm_up == 4


def close(gate: Turnstile) -> None:
    """Take back what `set` released."""
    while gate.wait(0):
        pass
