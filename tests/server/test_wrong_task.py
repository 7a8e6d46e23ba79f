"""What a route answers when the model does something else."""
# ruff: noqa: E501 - refusals as they are sent

import asyncio

import pytest
from inline_snapshot import snapshot
from starlette.routing import Route
from tests.server.fakes import FakeEngine, ask, make_pipeline

from beicli.model.spec import Task
from beicli.server.app import create_app
from beicli.server.options import ServerOptions

NOT_EMBEDDING = "Backend error: Model is not an embedding model"
NOT_SPLADE = "Backend error: Model is not an embedding model with SPLADE pooling"
NOT_RERANKER = "Backend error: model is not a re-ranker model"
NOT_CLASSIFIER = "Backend error: Model is not a classifier model"
NOT_TOKEN_CLASSIFIER = "Backend error: Model is not a token classifier model"

INPUT = {"inputs": "w1"}
DOCUMENTS = {"query": "w1", "documents": ["w2"]}
# A good body for each route that asks a model, and what it says to models it is not for.
ROUTES: dict[str, tuple[dict[str, object], str]] = {
    "/v1/embeddings": ({"input": "w1"}, NOT_EMBEDDING),
    "/embeddings": ({"input": "w1"}, NOT_EMBEDDING),
    "/embed": (INPUT, NOT_EMBEDDING),
    "/embed_all": (INPUT, NOT_EMBEDDING),
    "/similarity": (
        {"inputs": {"source_sentence": "w1", "sentences": ["w2"]}},
        NOT_EMBEDDING,
    ),
    "/v2/embed": ({"texts": ["w1"], "input_type": "search_query"}, NOT_EMBEDDING),
    "/embed_sparse": (INPUT, NOT_SPLADE),
    "/rerank": ({"query": "w1", "texts": ["w2"]}, NOT_RERANKER),
    "/v1/rerank": (DOCUMENTS, NOT_RERANKER),
    "/v2/rerank": (DOCUMENTS, NOT_RERANKER),
    "/predict": (INPUT, NOT_CLASSIFIER),
    "/predict_tokens": (INPUT, NOT_TOKEN_CLASSIFIER),
}
# Models for which a route has other words.
OTHER_WORDS = {
    ("/embed_all", "a sparse embedding model"): (
        "Backend error: `embed_all` is not available for SPLADE models"
    )
}
# Of these the body depends on the model, or no model is asked.
OTHERS = {"/admin/reload", "/", "/invocations", "/vertex", "/tokenize", "/decode"}
SPEAKS_OPENAI = {"/v1/embeddings", "/embeddings", "/v2/embed", "/v1/rerank", "/v2/rerank"}

RERANKING = frozenset({"/rerank", "/v1/rerank", "/v2/rerank", "/predict"})
EMBEDDING = frozenset(
    {"/v1/embeddings", "/embeddings", "/embed", "/embed_all", "/similarity", "/v2/embed"}
)
MODELS = {
    "an embedding model": (FakeEngine(), EMBEDDING),
    "a sparse embedding model": (
        FakeEngine(task=Task.SPARSE_EMBEDDING),
        frozenset({"/embed_sparse"}),
    ),
    "a classifier": (FakeEngine(task=Task.CLASSIFICATION), frozenset({"/predict"})),
    "a classifier that ranks": (
        FakeEngine(task=Task.CLASSIFICATION, labels=("no", "yes"), relevance_label=1),
        RERANKING,
    ),
    "a reranker": (FakeEngine(task=Task.RERANKING), RERANKING),
    "a token classifier": (
        FakeEngine(task=Task.TOKEN_CLASSIFICATION),
        frozenset({"/predict_tokens"}),
    ),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("model", MODELS)
def test_a_route_answers_for_its_models_and_tells_all_others_where_to_go(
    path: str, model: str
) -> None:
    engine, answering = MODELS[model]
    body, message = ROUTES[path]

    response = ask("POST", path, engine=engine, json=body)

    if path in answering:
        assert response.status_code == 200
        return
    assert response.status_code == 424
    told = response.json()
    if path in SPEAKS_OPENAI:
        assert told["error"].keys() == {"message", "type", "param", "code", "hint"}
        assert (told["error"]["type"], told["error"]["code"]) == (
            "invalid_request_error",
            "wrong_model_type",
        )
        told = {"error": told["error"]["message"], "hint": told["error"]["hint"]}
    else:
        assert told.pop("error_type") == "Backend"
    assert told.pop("error") == OTHER_WORDS.get((path, model), message)
    kind, _, routes = told.pop("hint").partition(": use ")
    assert kind == f"`tiny` is {model.removesuffix(' that ranks')}"
    # One address of a route is enough.
    assert set(routes.split(", ")) == answering - {"/embeddings"}
    assert told == {}


def test_every_route_is_known_here() -> None:
    async def paths() -> set[str]:
        with make_pipeline(FakeEngine()) as pipeline:
            routes = create_app(pipeline, ServerOptions()).routes
            return {
                route.path
                for route in routes
                if isinstance(route, Route) and "POST" in (route.methods or ())
            }

    assert asyncio.run(paths()) == ROUTES.keys() | OTHERS


def test_the_whole_answer_in_both_shapes() -> None:
    engine = FakeEngine(task=Task.CLASSIFICATION)

    tei, openai = (
        ask("POST", path, engine=engine, json=ROUTES[path][0]) for path in ("/rerank", "/v1/rerank")
    )

    assert f"{tei.status_code} {tei.text}" == snapshot(
        '424 {"error":"Backend error: model is not a re-ranker model","error_type":"Backend","hint":"`tiny` is a classifier: use /predict"}'
    )
    assert f"{openai.status_code} {openai.text}" == snapshot(
        '424 {"error":{"message":"Backend error: model is not a re-ranker model","type":"invalid_request_error","param":null,"code":"wrong_model_type","hint":"`tiny` is a classifier: use /predict"}}'
    )


def test_no_work_is_done_for_the_wrong_task() -> None:
    engine = FakeEngine(task=Task.CLASSIFICATION)

    ask("POST", "/rerank", engine=engine, json=ROUTES["/rerank"][0])

    assert engine.num_sequences == 0
