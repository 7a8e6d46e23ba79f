"""Cohere's client for Python, unchanged, against the real server."""

import asyncio
from collections.abc import Iterator

import cohere
import numpy as np
import pytest
from cohere.core.api_error import ApiError
from tests.server.fakes import (
    FIRST_WORD_ID,
    FakeEngine,
    LiveServer,
    live_server,
    logits,
    word_ids,
)

from beicli.model.spec import Task

DOCUMENTS = ["w1", "w2", "w3", "w4", "w5"]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(FakeEngine(task=Task.RERANKING)) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[cohere.ClientV2]:
    with cohere.ClientV2(api_key="none", base_url=server.url) as opened:
        yield opened


def scores() -> np.ndarray:
    """The fake's scores of DOCUMENTS for the query w9."""
    pairs = [[*word_ids(9), FIRST_WORD_ID + int(text[1:]), 3] for text in DOCUMENTS]
    return 1 / (1 + np.exp([-logits(ids, Task.RERANKING)[0] for ids in pairs]))


def test_the_second_api_gets_the_best_first(client: cohere.ClientV2) -> None:
    response = client.rerank(model="any", query="w9", documents=DOCUMENTS, top_n=3)

    order = np.argsort(-scores())[:3]
    assert [item.index for item in response.results] == order.tolist()
    relevance = [item.relevance_score for item in response.results]
    np.testing.assert_allclose(relevance, scores()[order], atol=1e-6)
    assert response.id
    assert response.meta is not None
    assert response.meta.api_version is not None
    assert response.meta.api_version.version == "2"
    assert response.meta.billed_units is not None
    assert response.meta.billed_units.search_units == 1


def test_the_second_api_may_limit_what_is_read_of_a_document(client: cohere.ClientV2) -> None:
    response = client.rerank(model="any", query="w9", documents=["w1 w2 w3"], max_tokens_per_doc=1)

    assert response.results[0].relevance_score == pytest.approx(scores()[0], abs=1e-6)


def test_the_first_api_gets_documents_back(server: LiveServer) -> None:
    with cohere.Client(api_key="none", base_url=server.url) as client:
        response = client.rerank(
            model="any",
            query="w9",
            documents=[{"text": text} for text in DOCUMENTS],
            return_documents=True,
        )

    assert [item.index for item in response.results] == np.argsort(-scores()).tolist()
    for item in response.results:
        assert item.document is not None
        assert item.document.text == DOCUMENTS[item.index]


def test_the_async_client_gets_the_same(server: LiveServer) -> None:
    async def run() -> list[int]:
        async with cohere.AsyncClientV2(api_key="none", base_url=server.url) as client:
            response = await client.rerank(model="any", query="w9", documents=DOCUMENTS)
            return [item.index for item in response.results]

    assert asyncio.run(run()) == np.argsort(-scores()).tolist()


@pytest.mark.parametrize(
    ("more", "error_class", "status", "code"),
    [
        ({"documents": []}, cohere.BadRequestError, 400, "empty_input"),
        ({"top_n": 0}, cohere.UnprocessableEntityError, 422, "invalid_value"),
        ({"documents": ["w1"] * 129}, ApiError, 413, "batch_too_large"),
    ],
)
def test_the_client_raises_its_error_with_our_code(
    client: cohere.ClientV2,
    more: dict[str, object],
    error_class: type[ApiError],
    status: int,
    code: str,
) -> None:
    with pytest.raises(error_class) as caught:
        client.rerank(**{"model": "any", "query": "w9", "documents": DOCUMENTS, **more})

    assert caught.value.status_code == status
    assert caught.value.body["error"]["code"] == code
