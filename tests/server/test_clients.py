"""The clients people use, unchanged, against the real server."""

from collections.abc import Iterator

import baseten_performance_client
import numpy as np
import openai
import pytest
from tests.server.fakes import FakeEngine, LiveServer, live_server, vector, word_ids

from beicli.server.options import ServerOptions


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(FakeEngine(poison_id=8), ServerOptions(port=0, max_body_bytes=10_000)) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as opened:
        yield opened


def vectors(response: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    return np.array([item.embedding for item in response.data])


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
@pytest.mark.parametrize(
    ("sent", "computed"),
    [
        ("w1 w2", [word_ids(1, 2)]),
        (["w1", "w2 w3"], [word_ids(1), word_ids(2, 3)]),
        (word_ids(5), [word_ids(5)]),
        ([word_ids(5), word_ids(6)], [word_ids(5), word_ids(6)]),
    ],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_openai_gets_the_vectors(
    client: openai.OpenAI, sent: object, computed: list[list[int]], options: dict[str, str]
) -> None:
    response = client.embeddings.create(model="any", input=sent, **options)

    np.testing.assert_allclose(vectors(response), [vector(ids) for ids in computed], atol=1e-6)
    assert [item.index for item in response.data] == list(range(len(computed)))
    assert response.model == "tiny"
    assert response.usage.total_tokens == sum(map(len, computed))


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_openai_gets_fewer_dimensions(client: openai.OpenAI, options: dict[str, str]) -> None:
    response = client.embeddings.create(model="any", input=["w1"], dimensions=2, **options)

    head = vector(word_ids(1))[:2]
    np.testing.assert_allclose(vectors(response), [head / np.linalg.norm(head)], atol=1e-6)


def test_openai_lists_the_model(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data

    assert client.models.retrieve(model.id) == model


@pytest.mark.parametrize(
    ("sent", "error_class", "status", "code"),
    [
        ([], openai.BadRequestError, 400, "empty_input"),
        ([None], openai.UnprocessableEntityError, 422, "invalid_value"),
        (["w1"] * 129, openai.APIStatusError, 413, "batch_too_large"),
        ("w1" * 10_000, openai.APIStatusError, 413, "payload_too_large"),
        ("w4", openai.APIStatusError, 424, "engine_error"),
    ],
)
def test_openai_raises_its_error_with_our_code(
    client: openai.OpenAI,
    sent: object,
    error_class: type[openai.APIStatusError],
    status: int,
    code: str,
) -> None:
    with pytest.raises(error_class) as caught:
        client.embeddings.create(model="any", input=sent)

    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_openai_raises_not_found_for_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `other` does not exist"):
        client.models.retrieve("other")


def test_the_performance_client_gets_1000_texts_in_order(server: LiveServer) -> None:
    # 4 has the id that the fake engine chokes on.
    numbers = [number for number in range(1001) if number != 4]
    client = baseten_performance_client.PerformanceClient(base_url=server.url, api_key="none")

    response = client.embed(input=[f"w{number}" for number in numbers], model="tiny")

    np.testing.assert_allclose(
        response.numpy(), [vector(word_ids(number)) for number in numbers], atol=1e-6
    )
    assert [item.index for item in response.data] == list(range(1000))
    assert response.usage.total_tokens == 3000
    assert {headers["x-compute-type"] for headers in response.response_headers} == {"cpu"}
