"""The clients people use, unchanged, against the real server."""

import asyncio
import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing

import baseten_performance_client
import httpx
import httpx2
import langchain_openai
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


def performance_client(server: LiveServer) -> baseten_performance_client.PerformanceClient:
    return baseten_performance_client.PerformanceClient(base_url=server.url, api_key="none")


def content_types(response: baseten_performance_client.OpenAIEmbeddingsResponse) -> set[str]:
    return {headers["content-type"] for headers in response.response_headers}


@pytest.mark.parametrize("batch_size", [8, 128])
@pytest.mark.parametrize(
    ("extra_headers", "content_type"),
    [(None, "application/json"), ({"accept": "application/msgpack"}, "application/msgpack")],
    ids=["json", "msgpack"],
)
def test_the_performance_client_reads_either_form(
    server: LiveServer, extra_headers: dict[str, str] | None, content_type: str, batch_size: int
) -> None:
    # 128 vectors in JSON are long enough to be compressed, which this client always asks for.
    preference = baseten_performance_client.RequestProcessingPreference(
        batch_size=batch_size, extra_headers=extra_headers
    )
    numbers = range(5, 261)

    response = performance_client(server).embed(
        input=[f"w{number}" for number in numbers], model="tiny", preference=preference
    )

    assert content_types(response) == {content_type}
    np.testing.assert_allclose(
        response.numpy(), [vector(word_ids(number)) for number in numbers], atol=1e-6
    )
    assert [item.index for item in response.data] == list(range(256))
    assert {item.object for item in response.data} == {"embedding"}
    assert (response.object, response.model) == ("list", "tiny")
    assert response.usage.prompt_tokens == response.usage.total_tokens == 3 * 256


@pytest.mark.parametrize("accept", ["application/json", "application/msgpack"])
def test_the_performance_client_gets_base64_in_either_form(server: LiveServer, accept: str) -> None:
    preference = baseten_performance_client.RequestProcessingPreference(
        extra_headers={"accept": accept}
    )

    response = performance_client(server).embed(
        input=["w1", "w2"], model="tiny", encoding_format="base64", preference=preference
    )

    assert content_types(response) == {accept}
    rows = [np.frombuffer(base64.b64decode(item.embedding), dtype="<f4") for item in response.data]
    np.testing.assert_allclose(rows, [vector(word_ids(1)), vector(word_ids(2))], atol=1e-6)


def test_the_performance_client_gets_the_same_without_blocking(server: LiveServer) -> None:
    async def run() -> baseten_performance_client.OpenAIEmbeddingsResponse:
        return await performance_client(server).async_embed(
            input=["w1", "w2"], model="tiny", dimensions=2
        )

    heads = np.stack([vector(word_ids(1))[:2], vector(word_ids(2))[:2]])
    np.testing.assert_allclose(
        asyncio.run(run()).numpy(),
        heads / np.linalg.norm(heads, axis=1, keepdims=True),
        atol=1e-6,
    )


def test_a_hedged_request_is_answered_once_and_leaves_nothing_behind() -> None:
    engine = FakeEngine()
    preference = baseten_performance_client.RequestProcessingPreference(
        hedge_delay=0.05, hedge_budget_pct=3.0
    )
    with live_server(engine) as server:
        engine.gate.clear()
        opening = threading.Timer(0.4, engine.gate.set)
        opening.start()

        response = performance_client(server).embed(
            input=["w1", "w2"], model="tiny", preference=preference
        )

        opening.join()
        np.testing.assert_allclose(
            response.numpy(), [vector(word_ids(1)), vector(word_ids(2))], atol=1e-6
        )
        # The first and its hedge; the one that is not needed any more is given up.
        page = httpx2.get(server.url + "/metrics").text
        assert 'te_request_count{method="batch"} 2.0' in page
        assert "te_queue_size 0.0" in page


def test_langchain_gets_the_vectors_as_it_comes(server: LiveServer) -> None:
    # Otherwise it would download a tokenizer of OpenAI's and send token ids of that.
    with httpx.Client() as client:
        embeddings = langchain_openai.OpenAIEmbeddings(
            base_url=server.url + "/v1",
            api_key="none",
            model="tiny",
            check_embedding_ctx_length=False,
            http_client=client,
        )

        documents = embeddings.embed_documents(["w1", "w2 w3"])
        query = embeddings.embed_query("w5")

    expected = [vector(word_ids(1)), vector(word_ids(2, 3))]
    np.testing.assert_allclose(documents, expected, atol=1e-6)
    np.testing.assert_allclose(query, vector(word_ids(5)), atol=1e-6)


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_the_standard_library_reads_the_header_of_the_largest_raw_batch(
    server: LiveServer, path: str
) -> None:
    name = "input" if path == "/v1/embeddings" else "inputs"
    body = json.dumps({name: ["w1"] * 128, "encoding_format": "bytes", "embed_dtype": "float16"})
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        raw = response.read()

    metadata = json.loads(response.headers["metadata"])
    rows = np.frombuffer(raw, metadata["dtype"]).reshape(metadata["shape"])
    np.testing.assert_allclose(rows, [vector(word_ids(1))] * 128, atol=1e-3)
