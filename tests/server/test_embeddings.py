import asyncio
import base64
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest
from tests.server.fakes import (
    DIMENSION,
    FakeEngine,
    ask,
    make_manifest,
    make_tokenizer,
    vector,
    word_ids,
)

from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.app import create_app
from beicli.server.options import ServerOptions


def embed(**fields: Any) -> list[Any]:
    response = ask("POST", "/v1/embeddings", json=fields)
    assert response.status_code == 200, response.text
    return [item["embedding"] for item in response.json()["data"]]


def test_the_answer_has_the_shape_and_key_order_of_openais_api() -> None:
    response = ask("POST", "/v1/embeddings", json={"input": ["w1 w2", "w3"], "model": "any"})

    body = response.json()
    assert list(body) == ["object", "data", "model", "usage"]
    assert [list(item) for item in body["data"]] == [["object", "embedding", "index"]] * 2
    assert [(item["object"], item["index"]) for item in body["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_each_text_gets_its_own_vector_in_order() -> None:
    vectors = embed(input=["w1 w2", "w3"])

    np.testing.assert_allclose(vectors, [vector(word_ids(1, 2)), vector(word_ids(3))], atol=1e-6)


@pytest.mark.parametrize(
    ("sent", "computed"),
    [
        ("w1 w2", [[2, 5, 6, 3]]),
        ([2, 5, 6, 3], [[2, 5, 6, 3]]),
        ([[2, 5, 3]], [[2, 5, 3]]),
        ([[5], "w1"], [[5], [2, 5, 3]]),
    ],
    ids=["text", "ids", "list of ids", "mixed"],
)
def test_input_may_be_a_text_token_ids_or_a_list_of_both(
    sent: Any, computed: list[list[int]]
) -> None:
    np.testing.assert_allclose(embed(input=sent), [vector(ids) for ids in computed], atol=1e-6)


def test_base64_holds_the_same_numbers_as_little_endian_float32() -> None:
    encoded = embed(input=["w1", "w2"], encoding_format="base64")

    rows = [np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4") for text in encoded]
    np.testing.assert_array_equal(
        rows, np.array(embed(input=["w1", "w2"], encoding_format="float"), dtype=np.float32)
    )


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("dimensions", [1, 3, DIMENSION])
def test_dimensions_keeps_the_first_ones_and_unit_length(
    dimensions: int, encoding_format: str
) -> None:
    (row,) = embed(input="w1", dimensions=dimensions, encoding_format=encoding_format)

    if encoding_format == "base64":
        row = np.frombuffer(base64.b64decode(row), dtype="<f4")
    head = vector(word_ids(1))[:dimensions]
    np.testing.assert_allclose(row, head / np.linalg.norm(head), atol=1e-6)


def test_nulls_and_unknown_keys_are_ignored() -> None:
    (row,) = embed(
        input="w1", dimensions=None, encoding_format=None, model=None, user=7, no_such_key=[1]
    )

    assert len(row) == DIMENSION


def test_128_inputs_fit_and_a_lower_limit_is_kept() -> None:
    fits = ask("POST", "/v1/embeddings", json={"input": ["w1"] * 128})
    refused = ask(
        "POST",
        "/v1/embeddings",
        options=ServerOptions(max_client_batch_size=4),
        json={"input": ["w1"] * 5},
    )

    assert len(fits.json()["data"]) == 128
    assert refused.json()["error"]["message"] == "batch size 5 > maximum allowed batch size 4"


def test_a_long_list_of_token_ids_is_one_input() -> None:
    response = ask("POST", "/v1/embeddings", json={"input": [5] * 129})

    assert len(response.json()["data"]) == 1


def test_the_served_name_replaces_the_engines() -> None:
    response = ask(
        "POST",
        "/v1/embeddings",
        options=ServerOptions(served_model_name='my "model"'),
        json={"input": "w1", "model": "tiny"},
    )

    assert response.json()["model"] == 'my "model"'


def test_headers_say_what_was_computed_and_how_long_it_took() -> None:
    headers = ask("POST", "/v1/embeddings", json={"input": ["w1 w2", "wörter"]}).headers

    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "11"
    assert headers["x-compute-tokens"] == "7"
    times = ["compute", "total", "tokenization", "queue", "inference"]
    assert all(headers[f"x-{name}-time"].isdigit() for name in times)
    assert headers["x-bei-truncated-inputs"] == "0"


def test_a_cut_input_is_told_in_a_header() -> None:
    response = ask("POST", "/v1/embeddings", json={"input": ["w1 " * 40, "w2", "w3 " * 40]})

    assert response.headers["x-bei-truncated-inputs"] == "2"
    assert response.json()["usage"]["prompt_tokens"] == 16 + 3 + 16


def test_the_checkpoints_default_prompt_goes_before_texts() -> None:
    async def run() -> httpx2.Response:
        manifest = make_manifest()
        model = replace(manifest.model, prompts={"query": "w9 "}, default_prompt_name="query")
        engine = FakeEngine()
        with InferencePipeline(replace(manifest, model=model), make_tokenizer(), engine) as opened:
            transport = httpx2.ASGITransport(create_app(opened, ServerOptions()))
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post("/v1/embeddings", json={"input": "w1"})

    (item,) = asyncio.run(run()).json()["data"]

    np.testing.assert_allclose(item["embedding"], vector(word_ids(9, 1)), atol=1e-6)


def test_an_engine_failure_is_424_and_hides_the_engines_words() -> None:
    response = ask(
        "POST", "/v1/embeddings", engine=FakeEngine(poison_id=5), json={"input": ["w0", "w1"]}
    )

    assert response.status_code == 424
    assert response.json()["error"] == {
        "message": "the engine could not compute input 1: RuntimeError",
        "type": "server_error",
        "param": None,
        "code": "engine_error",
        "hint": "the server's log has the details",
    }
