import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.server.fakes import FakeEngine, ask, make_manifest

from beicli.model.routes import platform_route
from beicli.model.spec import Task
from beicli.server.options import ServerOptions
from beicli.server.paths import route_behind, why_unserved

PREFIXES = [
    "/sync",
    "/production/sync",
    "/development/sync",
    "/environments/staging/sync",
    "/deployment/abc123/sync",
]
BARE = [
    "/production/predict",
    "/development/predict",
    "/environments/staging/predict",
    "/deployment/abc123/predict",
    "/v1/models/model:predict",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("route", ["/v1/embeddings", "/predict", "/v1/models/a/b", "/", "/nothing"])
def test_a_platform_address_stands_for_the_route_after_its_prefix(prefix: str, route: str) -> None:
    assert route_behind(prefix + route, default_route="/rerank") == route


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_alone_is_the_root(prefix: str) -> None:
    assert route_behind(prefix, default_route="/rerank") == "/"


@pytest.mark.parametrize("path", BARE)
def test_the_bare_predict_address_is_the_default_route(path: str) -> None:
    assert route_behind(path, default_route="/rerank") == "/rerank"


@pytest.mark.parametrize(
    "path",
    [
        "/predict",
        "/synchronous/embed",
        "/production",
        "/environments/sync/embed",
        "/environments//sync/embed",
        "/a/production/sync/embed",
        "/v1/models/model",
        "/production/predict/",
    ],
)
def test_other_paths_stand_for_themselves(path: str) -> None:
    assert route_behind(path, default_route="/rerank") == path


@given(st.text())
@example("/sync//sync/embed")
@example("/sync/\n/x")
def test_any_path_leads_to_some_route(path: str) -> None:
    found = route_behind("/" + path, default_route="/rerank")

    assert found.startswith("/")


@pytest.mark.parametrize(
    ("task", "route"),
    [
        (Task.EMBEDDING, "/v1/embeddings"),
        (Task.SPARSE_EMBEDDING, "/embed_sparse"),
        (Task.CLASSIFICATION, "/predict"),
        (Task.RERANKING, "/predict"),
        (Task.TOKEN_CLASSIFICATION, "/predict_tokens"),
    ],
)
def test_the_default_route_follows_from_the_task_unless_it_is_configured(
    task: Task, route: str
) -> None:
    model = make_manifest(task).model

    assert platform_route(model, None) == route
    assert platform_route(model, "/rerank") == "/rerank"


@pytest.mark.parametrize("path", ["/production/sync/v1/embeddings", *BARE])
def test_a_request_to_a_platform_address_is_answered(path: str) -> None:
    response = ask("POST", path, json={"input": "w1"})

    assert response.status_code == 200
    assert response.json()["object"] == "list"


@pytest.mark.parametrize(
    ("path", "is_openai"),
    [
        ("/production/sync/v1/embeddings", True),
        ("/v1/models/model:predict", True),
        ("/sync", False),
    ],
)
def test_an_error_takes_the_shape_of_the_route_behind(path: str, *, is_openai: bool) -> None:
    error = ask("POST", path, content=b"{", headers={"content-type": "application/json"}).json()

    assert isinstance(error["error"], dict) == is_openai


def test_a_get_of_a_bare_prefix_asks_for_health() -> None:
    assert ask("GET", "/environments/production/sync").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/environments/production/async/v1/embeddings",
        "/environments/production/async_predict",
        "/production/async_predict",
        "/development/async/predict",
        "/deployment/abc123/async",
        "/async/predict",
    ],
)
def test_asynchronous_addresses_are_refused_with_a_way_out(path: str) -> None:
    response = ask("POST", path, json={"input": "w1"})

    assert response.status_code == 404
    assert "send the same body to the route itself" in response.json()["hint"]


def test_the_platforms_own_route_is_refused_with_a_way_out() -> None:
    response = ask("POST", "/v1/systemone", json={})

    assert response.status_code == 404
    assert "webserver_default_route" in response.json()["error"]["hint"]


def test_served_routes_need_no_excuse() -> None:
    assert why_unserved("/v1/embeddings") is None
    assert why_unserved("/no-such-route") is None


def test_the_platforms_name_for_a_model_tells_whether_it_is_ready() -> None:
    assert ask("GET", "/v1/models/model").json()["id"] == "tiny"

    response = ask("GET", "/v1/models/model", engine=FakeEngine(poison_id=1))

    assert response.status_code == 503


def test_a_model_of_that_name_is_still_found() -> None:
    options = ServerOptions(served_model_name="model")

    assert ask("GET", "/v1/models/model", options=options).json()["id"] == "model"
    assert ask("GET", "/v1/models/tiny", options=options).status_code == 404
