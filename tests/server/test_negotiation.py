import asyncio
import threading
from typing import Any

import httpx2
import numpy as np
import ormsgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response
from tests.server.fakes import FakeEngine, ask

from beicli.model.spec import Task
from beicli.server import negotiation
from beicli.server.negotiation import (
    MIN_COMPRESSED_BYTES,
    Answer,
    Negotiated,
    accepts_zstd,
    negotiate,
    preferred_media_type,
)
from beicli.server.options import ServerOptions
from beicli.server.vectors import base64_rows

JSON, MSGPACK = "application/json", "application/msgpack"
# What the Baseten Performance Client sends.
CLIENT_HEADERS = {"accept": f"{JSON}, {MSGPACK}", "accept-encoding": "zstd"}
VECTORS = np.random.default_rng(0).standard_normal((32, 384)).astype(np.float32)


def respond(content: object, **asked: Any) -> Response:
    return asyncio.run(Negotiated(**asked).respond(Answer(content, None)))


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/*", JSON),
        ("text/html", JSON),
        ("application/json, text/plain, */*", JSON),
        (CLIENT_HEADERS["accept"], JSON),
        ("application/json;q=0.5, application/msgpack;q=0.5", JSON),
        ("application/msgpack;q=0", JSON),
        ("application/msgpack;q=0, */*", JSON),
        ("application/msgpack;q=0.1, application/json;q=0.2", JSON),
        ("application/msgpack;q=nan", JSON),
        ("application/msgpack;q=-1", JSON),
        ("*/*;q=0.9, application/json;q=0.8", MSGPACK),
        ("application/msgpack", MSGPACK),
        ("application/x-msgpack", MSGPACK),
        ("application/messagepack", MSGPACK),
        ("application/vnd.msgpack", MSGPACK),
        (" Application/MsgPack ; Q = 0.3 ", MSGPACK),
        ("application/msgpack, application/json", MSGPACK),
        ("application/msgpack, */*", MSGPACK),
        ("*/*, application/msgpack", MSGPACK),
        ("application/json;q=0.9, application/x-msgpack", MSGPACK),
        ("application/json;q=0, */*;q=0.1", MSGPACK),
        ("application/msgpack;q=0.2, application/x-msgpack;q=0.9, application/json;q=0.5", MSGPACK),
        ('application/msgpack;version="1;2"', MSGPACK),
    ],
)
def test_the_form_is_the_one_the_client_likes_best(accept: str, chosen: str) -> None:
    assert preferred_media_type(accept) == chosen


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        ("", False),
        ("gzip, deflate, br", False),
        ("*", False),
        ("zstd", True),
        ("gzip, deflate, br, ZSTD", True),
        ("zstd;q=0", False),
        ("zstd;q=0.0, gzip", False),
        ("zstd;q=0.5", True),
        ("zstd;q=0.5, identity", False),
        ("zstd;q=0.5, identity;q=0.1", True),
        ("x-zstd", False),
        ("zstd;q=a lot", False),
    ],
)
def test_zstd_is_for_those_who_name_it_and_like_it(accept_encoding: str, *, accepted: bool) -> None:
    assert accepts_zstd(accept_encoding) is accepted


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_headers_lead_to_some_form(accept: bytes, accept_encoding: bytes) -> None:
    negotiated = negotiate({b"accept": accept, b"accept-encoding": accept_encoding})

    assert negotiated.media_type in {JSON, MSGPACK}


def test_arrays_are_packed_as_float32_as_they_are() -> None:
    response = respond({"embedding": VECTORS}, media_type=MSGPACK)

    assert response.headers["content-type"] == MSGPACK
    # Five bytes a number, and a few around them; as float64 it would be nine.
    assert VECTORS.size * 5 < len(response.body) < VECTORS.size * 5 + 200
    np.testing.assert_array_equal(
        np.array(ormsgpack.unpackb(response.body)["embedding"], dtype=np.float32), VECTORS
    )


def test_numbers_in_json_are_compressed_for_who_takes_zstd() -> None:
    plain, compressed = respond(VECTORS), respond(VECTORS, takes_zstd=True)

    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "zstd"
    assert len(compressed.body) < 0.45 * len(plain.body)
    assert zstandard.decompress(compressed.body) == plain.body
    assert int(compressed.headers["content-length"]) == len(compressed.body)


@pytest.mark.parametrize("media_type", [JSON, MSGPACK])
def test_packed_numbers_are_not_compressed_as_they_would_hardly_get_smaller(
    media_type: str,
) -> None:
    content = [row.decode() for row in base64_rows(VECTORS)] if media_type == JSON else VECTORS

    response = respond(content, media_type=media_type, takes_zstd=True)

    assert len(response.body) > MIN_COMPRESSED_BYTES
    assert "content-encoding" not in response.headers


def test_a_short_answer_is_not_compressed() -> None:
    response = respond([1.0] * 1000, takes_zstd=True)

    assert "content-encoding" not in response.headers


def test_texts_are_compressed_in_either_form() -> None:
    tokens = [{"id": number, "text": "word", "special": False} for number in range(1000)]

    for media_type in (JSON, MSGPACK):
        response = respond(tokens, media_type=media_type, takes_zstd=True)
        assert response.headers["content-encoding"] == "zstd"


def test_a_long_answer_is_compressed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    really_compress = zstandard.compress

    def compress(body: bytes, level: int) -> bytes:
        threads.append(threading.current_thread())
        return really_compress(body, level)

    monkeypatch.setattr(negotiation.zstandard, "compress", compress)
    monkeypatch.setattr(negotiation, "MAX_INLINE_BYTES", 100_000)

    short = respond(VECTORS[:16], takes_zstd=True)
    assert threads == [threading.main_thread()] * 2

    long = respond(VECTORS, takes_zstd=True)
    assert threads[2] is threading.main_thread()
    assert threads[3] is not threading.main_thread()
    assert {r.headers["content-encoding"] for r in (short, long)} == {"zstd"}


def test_finished_bytes_go_out_as_they_are() -> None:
    body = b"[1.0]" * 10_000

    response = asyncio.run(Negotiated(MSGPACK, takes_zstd=True).respond(Answer(body, None)))

    assert response.body == body
    assert response.headers["content-type"] == JSON


# Every inference route, with a body it takes and the kind of model it asks.
ROUTES = {
    "/v1/embeddings": (Task.EMBEDDING, {"input": ["w1", "w2 w3"]}),
    "/embeddings": (Task.EMBEDDING, {"input": "w1", "encoding_format": "base64"}),
    "/embed": (Task.EMBEDDING, {"inputs": ["w1", "w2 w3"]}),
    "/embed_all": (Task.EMBEDDING, {"inputs": ["w1", "w2 w3"]}),
    "/similarity": (
        Task.EMBEDDING,
        {"inputs": {"source_sentence": "w1", "sentences": ["w1", "w2"]}},
    ),
    "/v2/embed": (
        Task.EMBEDDING,
        {"texts": ["w1"], "embedding_types": ["float", "int8", "base64"]},
    ),
    "/tokenize": (Task.EMBEDDING, {"inputs": "w1 ü"}),
    "/decode": (Task.EMBEDDING, {"ids": [5, 6]}),
    "/embed_sparse": (Task.SPARSE_EMBEDDING, {"inputs": ["w1 w1 w2"]}),
    "/predict": (Task.CLASSIFICATION, {"inputs": [["w1"], ["w2", "w3"]]}),
    "/rerank": (Task.RERANKING, {"query": "w1", "texts": ["w2", "w3"]}),
    "/v2/rerank": (Task.RERANKING, {"query": "w1", "documents": ["w2", "w3"]}),
    "/predict_tokens": (Task.TOKEN_CLASSIFICATION, {"inputs": [["w1 w2"]]}),
}


def assert_same(one: Any, other: Any) -> None:
    """Compare answers: MessagePack has float32 where JSON has its shortest digits."""
    assert type(one) is type(other)
    if isinstance(one, list):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == (pytest.approx(other, rel=1e-6) if isinstance(one, float) else other)


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_answers_in_messagepack_what_it_answers_in_json(path: str) -> None:
    task, body = ROUTES[path]

    def send(accept: str) -> httpx2.Response:
        engine = FakeEngine(task=task)
        return ask("POST", path, engine=engine, json=body, headers={"accept": accept})

    as_json, as_msgpack = send(JSON), send(MSGPACK)

    assert as_json.headers["content-type"] == JSON
    assert as_msgpack.headers["content-type"] == MSGPACK
    assert as_json.headers["vary"] == as_msgpack.headers["vary"] == "accept, accept-encoding"
    unpacked, parsed = ormsgpack.unpackb(as_msgpack.content), as_json.json()
    if isinstance(parsed, dict):
        # Cohere's answers have a new id each.
        assert (unpacked.pop("id", None) is None) == (parsed.pop("id", None) is None)
    assert_same(unpacked, parsed)


def test_an_error_is_json_whatever_is_asked_for() -> None:
    headers = {"accept": MSGPACK, "accept-encoding": "zstd"}

    response = ask("POST", "/embed", json={}, headers=headers)

    assert response.status_code == 422
    assert response.headers["content-type"] == JSON
    assert response.json()["error_type"] == "Validation"


def test_a_long_answer_of_numbers_is_sent_compressed() -> None:
    def send(accept_encoding: str) -> httpx2.Response:
        headers = {"accept-encoding": accept_encoding}
        return ask("POST", "/embed_all", json={"inputs": ["w1 w2"] * 128}, headers=headers)

    plain, compressed = send("identity"), send("zstd")

    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "zstd"
    assert zstandard.decompress(compressed.content) == plain.content


def test_the_performance_clients_headers_get_json() -> None:
    response = ask("POST", "/embed", json={"inputs": "w1"}, headers=CLIENT_HEADERS)

    assert response.headers["content-type"] == JSON


@pytest.mark.parametrize("asked", ["true", "TRUE", "1"])
def test_each_inputs_tokens_are_told_to_who_asks(asked: str) -> None:
    response = ask(
        "POST",
        "/v1/embeddings",
        json={"input": ["w1 w2", "w3 " * 40, [5]]},
        headers={"x-bei-return-input-tokens": asked},
    )

    # Before truncation: the window has 16.
    assert response.headers["x-bei-input-tokens"] == "4,42,1"
    assert response.headers["x-bei-truncated-inputs"] == "1"


@pytest.mark.parametrize("headers", [{}, {"x-bei-return-input-tokens": "false"}])
def test_each_inputs_tokens_are_told_to_nobody_else(headers: dict[str, str]) -> None:
    response = ask("POST", "/embed", json={"inputs": "w1"}, headers=headers)

    assert "x-bei-input-tokens" not in response.headers


def test_the_tokens_of_the_largest_batch_fit_into_a_header() -> None:
    response = ask(
        "POST",
        "/embed",
        json={"inputs": ["w1 " * 400] * ServerOptions().max_client_batch_size},
        headers={"x-bei-return-input-tokens": "true"},
    )

    # Proxies and clients cut off at 4 to 8 KB.
    assert len(response.headers["x-bei-input-tokens"]) < 1000


def test_no_tokens_are_told_where_no_model_was_asked() -> None:
    response = ask(
        "POST",
        "/tokenize",
        json={"inputs": "w1"},
        headers={"x-bei-return-input-tokens": "true"},
    )

    assert "x-bei-input-tokens" not in response.headers
