"""Several engines behind one address: a request's `model` says which it asks."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tests.server.fakes import (
    TIMEOUT_S,
    FakeEngine,
    make_manifest,
    make_pipeline,
    make_spec,
    vector,
    wait_until,
    word_ids,
)
from tests.server.test_reload import NumberedEngine, vector_of
from tests.server.test_signals import build_again, serving
from tests.server.tiny_engine import make_artifact

from beicli.artifact.directory import read_manifest, seal_artifact
from beicli.errors import UsageError
from beicli.model.routes import answers
from beicli.model.spec import Task
from beicli.pipeline.pipeline import InferencePipeline
from beicli.scheduler.admission import QueueState
from beicli.scheduler.terms import Priority
from beicli.server.front import Front, model_names
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.several_metrics import SeveralMetrics

Request = tuple[str, str, dict[str, object]]
NAMES = ("embed", "rerank", "other")


def make_engines() -> list[FakeEngine]:
    return [FakeEngine(), FakeEngine(Task.RERANKING), NumberedEngine(number=1)]


def ask_several(
    requests: Sequence[Request],
    *,
    engines: Sequence[FakeEngine] | None = None,
    options: ServerOptions | None = None,
) -> list[httpx2.Response]:
    """Send requests to a server with the engines of NAMES, all at once."""

    async def run() -> list[httpx2.Response]:
        given = replace(options or ServerOptions(), model_names=NAMES)
        with ExitStack() as stack:
            pipelines = [stack.enter_context(make_pipeline(e)) for e in engines or make_engines()]
            front = Front(given, SeveralMetrics(NAMES), num_engines=len(NAMES))
            front.put(pipelines)
            transport = httpx2.ASGITransport(front)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.gather(
                    *(client.request(method, path, **body) for method, path, body in requests)
                )

    return asyncio.run(run())


def post(path: str, **body: object) -> Request:
    return "POST", path, {"json": body}


def get(path: str) -> Request:
    return "GET", path, {}


def test_the_field_model_says_which_engine_is_asked() -> None:
    first, third, scores = ask_several(
        [
            post("/v1/embeddings", input="w1 w2", model="embed"),
            post("/v1/embeddings", input="w1 w2", model="other"),
            post("/rerank", query="w1", texts=["w2"], model="rerank"),
        ]
    )

    found = [np.array(each.json()["data"][0]["embedding"]) for each in (first, third)]
    assert np.allclose(found[0], vector(word_ids(1, 2)), atol=1e-6)
    assert np.allclose(found[1], vector_of(1), atol=1e-6)
    assert (first.json()["model"], third.json()["model"]) == ("embed", "other")
    assert scores.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": "w1"}),
        ("/v2/embed", {"texts": ["w1"], "input_type": "search_query"}),
        ("/rerank", {"query": "w1", "texts": ["w2"]}),
        ("/v1/rerank", {"query": "w1", "documents": ["w2"]}),
        ("/predict", {"inputs": "w1"}),
        ("/tokenize", {"inputs": "w1"}),
        ("/", {"inputs": "w1"}),
    ],
)
def test_without_it_the_first_that_does_what_the_route_asks_for_is_asked(
    path: str, body: dict[str, object]
) -> None:
    (answer,) = ask_several([post(path, **body)])

    assert answer.status_code == 200, answer.text


def test_what_no_engine_does_is_refused_as_with_one() -> None:
    (answer,) = ask_several([post("/embed_sparse", inputs="w1")])

    assert answer.status_code == 424
    assert answer.json()["hint"].startswith("`embed` is an embedding model: use /v1/embeddings")


def test_an_engine_that_is_named_on_a_route_of_another_task_says_what_it_is() -> None:
    (answer,) = ask_several([post("/rerank", query="w1", texts=["w2"], model="other")])

    assert answer.status_code == 424
    assert answer.json()["hint"].startswith("`other` is an embedding model")


def test_a_model_that_is_not_there_is_told_in_the_routes_own_shape() -> None:
    hint = "this server has `embed`, `rerank`, `other`"
    openai, tei, listed = ask_several(
        [
            post("/v1/embeddings", input="w1", model="gpt"),
            post("/embed", inputs="w1", model="gpt"),
            get("/v1/models/gpt"),
        ]
    )

    assert [each.status_code for each in (openai, tei, listed)] == [404, 404, 404]
    error = openai.json()["error"]
    assert (error["code"], error["param"], error["hint"]) == ("model_not_found", "model", hint)
    assert tei.json() == {
        "error": "The model `gpt` does not exist",
        "error_type": "NotFound",
        "hint": hint,
    }


def test_a_model_that_is_no_text_is_refused() -> None:
    (answer,) = ask_several([post("/embed", inputs="w1", model=7)])

    assert answer.status_code == 422


def test_all_engines_are_listed_and_the_first_is_described() -> None:
    listed, one, platform, info, document = ask_several(
        [
            get("/v1/models"),
            get("/v1/models/rerank"),
            get("/v1/models/model"),
            get("/info"),
            get("/openapi.json"),
        ]
    )

    assert [each["id"] for each in listed.json()["data"]] == list(NAMES)
    assert one.json()["id"] == "rerank"
    assert platform.json()["id"] == "embed"
    assert (info.json()["served_model_name"], info.json()["models"]) == ("embed", list(NAMES))
    paths: dict[str, Any] = document.json()["paths"]
    assert paths["/rerank"]["post"]["x-bei-available"]
    assert not paths["/embed_sparse"]["post"]["x-bei-available"]
    said = document.json()["info"]["description"]
    assert "several models: `embed`, `rerank`, `other`." in said


def test_a_server_is_as_ready_as_the_least_of_its_engines() -> None:
    closing_token = 3  # in every text, so every forward pass fails
    engines = make_engines()
    engines[2].poison_id = closing_token + 1

    (ready,) = ask_several([get("/ready")], engines=engines)

    assert ready.status_code == 503


def test_all_engines_are_asked_at_once_whether_they_are_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_are_asked = asyncio.Barrier(len(NAMES))

    async def check_ready(*_: object, **__: object) -> None:
        await asyncio.wait_for(all_are_asked.wait(), TIMEOUT_S)

    monkeypatch.setattr(InferencePipeline, "check_ready", check_ready)

    (ready,) = ask_several([get("/ready")])

    assert ready.status_code == 200


def test_each_engine_counts_under_its_name_and_the_server_for_all() -> None:
    requests = [post("/embed", inputs=["w1", "w2"]), post("/rerank", query="w1", texts=["w2"])]
    requests.append(post("/embed", inputs=[], model="other"))

    async def run() -> str:
        options = ServerOptions(model_names=NAMES)
        with ExitStack() as stack:
            pipelines = [stack.enter_context(make_pipeline(e)) for e in make_engines()]
            front = Front(options, SeveralMetrics(NAMES), num_engines=3)
            front.put(pipelines)
            transport = httpx2.ASGITransport(front)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                for method, path, body in requests:
                    await client.request(method, path, **body)
                return (await client.get("/metrics")).text

    page = asyncio.run(run())

    assert 'te_embed_count{model="embed"} 2.0' in page
    assert 'te_embed_count{model="other"} 0.0' in page
    assert 'te_request_success{method="batch",model="embed"} 1.0' in page
    assert 'te_request_failure{err="validation",model="other"} 1.0' in page
    assert 'bei_requests_total{route="/embed",status="200"} 1.0' in page
    assert page.count("# TYPE te_embed_count counter") == 1
    assert page.count("bei_build_info{") == 3


def test_what_engines_count_keeps_the_name_it_began_with() -> None:
    async def run() -> list[str]:
        metrics = SeveralMetrics(["first", "second"])
        front = Front(ServerOptions(), metrics, num_engines=2)
        pages = [metrics.render().decode()]
        with ExitStack() as stack:
            for names in (("first", "second"), ("first", "third")):
                front.options = replace(front.options, model_names=names)
                front.put([stack.enter_context(make_pipeline(FakeEngine())) for _ in names])
                pages.append(metrics.render().decode())
            return pages

    loading, before, after = asyncio.run(run())

    for page in (loading, before, after):
        assert 'te_embed_count{model="second"} 0.0' in page
        assert 'te_embed_count{model="third"}' not in page
        assert 'te_embed_count{model=""}' not in page
    assert 'model="third"' in after


def test_the_page_of_one_engine_names_no_model_but_in_what_is_served() -> None:
    page = ServerMetrics().render().decode()

    assert "model=" not in page


def test_an_engine_that_is_full_leaves_the_others_alone() -> None:
    engines = make_engines()
    engines[0].gate.clear()
    options = ServerOptions(max_concurrent_requests=1)
    texts = [post("/embed", inputs=f"w{n}", model="embed") for n in range(2)]
    with ThreadPoolExecutor(1) as others:
        asking = others.submit(
            ask_several,
            [*texts, post("/rerank", query="w1", texts=["w2"]), post("/embed", inputs="w9")],
            engines=engines,
            options=options,
        )
        wait_until(lambda: engines[1].num_sequences > 0)
        engines[0].gate.set()
        answers = asking.result(TIMEOUT_S)

    assert [each.status_code for each in answers] == [200, 429, 200, 429]


def test_a_server_that_is_full_tells_what_waits_for_any_of_its_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = QueueState(num_sequences=2, num_tokens=30, priority=Priority.BULK, wait_s=None)
    states = iter([waiting, replace(waiting, wait_s=7.0), replace(waiting, wait_s=3.0)])
    monkeypatch.setattr(InferencePipeline, "queue_state", lambda _: next(states))

    (answer,) = ask_several(
        [post("/embed", inputs="w1")], options=ServerOptions(max_concurrent_requests=0)
    )

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["queue"] == {
        "waiting_inputs": 6,
        "waiting_tokens": 90,
        "estimated_wait_ms": 7000,
    }


def test_two_engines_of_one_name_are_refused() -> None:
    manifests = [make_manifest(), make_manifest(Task.RERANKING)]

    with pytest.raises(UsageError, match="2 engines are called `tiny`") as caught:
        model_names(ServerOptions(), manifests)

    assert caught.value.hint == "give each a name of its own with `--name`, in their order"
    assert model_names(ServerOptions(model_names=("a", "b")), manifests) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "tasks"),
    [
        ("/predict", {Task.CLASSIFICATION, Task.RERANKING}),
        ("/rerank", {Task.RERANKING}),
        ("/embeddings", {Task.EMBEDDING}),
        ("/embed_sparse", {Task.SPARSE_EMBEDDING}),
        ("/predict_tokens", {Task.TOKEN_CLASSIFICATION}),
        ("/tokenize", set(Task)),
    ],
)
def test_a_route_is_answered_by_the_models_of_its_task(path: str, tasks: set[Task]) -> None:
    assert {task for task in Task if answers(path, make_spec(task))} == tasks


@pytest.mark.parametrize("options", [(), ("--replicas", "2")])
def test_bei_serve_takes_several_engines_and_reloads_them_all(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    paths = [make_artifact(tmp_path / f"engine-{n}", seed=n).path for n in (1, 2)]
    seal_artifact(paths[0], replace(read_manifest(paths[0]), name="first"))
    with serving(paths[0], str(paths[1]), *options) as (_, url):

        def embed(model: str) -> list[float]:
            body = {"input": "w1 w2", "model": model}
            answer = httpx2.post(url + "/v1/embeddings", json=body, timeout=TIMEOUT_S)
            found: list[float] = answer.json()["data"][0]["embedding"]
            return found

        before = embed("first"), embed("tiny")
        assert before[0] != before[1]
        build_again(paths[1], seed=3)

        reloaded = httpx2.post(url + "/admin/reload", timeout=TIMEOUT_S)

        assert [each["id"] for each in reloaded.json()["models"]] == ["first", "tiny"]
        assert embed("first") == before[0]
        assert embed("tiny") != before[1]
        page = httpx2.get(url + "/metrics").text
        assert 'te_embed_count{model="tiny"}' in page
