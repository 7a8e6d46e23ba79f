from dataclasses import replace

import pytest
from tests.server.fakes import FakeEngine, ask, make_manifest

from beicli import __version__
from beicli.artifact.manifest import Source
from beicli.machine import available_cpus
from beicli.model.spec import Task
from beicli.server.exchange import Admission
from beicli.server.options import ServerOptions

MODEL = {"id": "tiny", "object": "model", "created": 1767323045, "owned_by": "bei"}


def test_models_lists_the_one_model() -> None:
    assert ask("GET", "/v1/models").json() == {"object": "list", "data": [MODEL]}


def test_a_model_is_found_by_its_id_slashes_included() -> None:
    options = ServerOptions(served_model_name="org/tiny")

    assert ask("GET", "/v1/models/tiny").json() == MODEL
    assert ask("GET", "/v1/models/org/tiny", options=options).json() == MODEL | {"id": "org/tiny"}


def test_an_unknown_model_is_404_and_names_the_one_there_is() -> None:
    response = ask("GET", "/v1/models/other")

    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "The model `other` does not exist",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
        "hint": "this server has `tiny`",
    }


def test_info_has_the_keys_of_text_embeddings_inference() -> None:
    assert ask("GET", "/info").json() == {
        "model_id": "example/tiny",
        "model_sha": "c0ffee",
        "model_dtype": "float32",
        "served_model_name": "tiny",
        "model_type": {"embedding": {"pooling": "mean"}},
        "prompts": [],
        "max_concurrent_requests": 2048,
        "max_input_length": 16,
        "max_batch_tokens": 512,
        "max_batch_requests": 64,
        "max_client_batch_size": 128,
        "auto_truncate": True,
        "tokenization_workers": available_cpus(),
        "replicas": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def test_info_does_not_tell_where_a_checkpoint_lay(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(kind="LOCAL", repo="/home/somebody/tiny", revision=None, resolved_revision=None)
    manifest = replace(make_manifest(), source=source)
    monkeypatch.setattr("tests.server.fakes.make_manifest", lambda _: manifest)

    answer = ask("GET", "/info")

    assert answer.json()["model_id"] == "tiny"
    assert "somebody" not in answer.text


def test_info_says_what_the_operator_chose() -> None:
    engine = FakeEngine(prompts={"query": "w9 ", "passage": "w8 "})
    options = ServerOptions(
        served_model_name="mine",
        on_too_long="error",
        max_client_batch_size=4,
        max_concurrent_requests=5,
    )

    info = ask("GET", "/info", engine=engine, options=options).json()

    assert (info["served_model_name"], info["auto_truncate"]) == ("mine", False)
    assert (info["max_client_batch_size"], info["max_concurrent_requests"]) == (4, 5)
    assert info["prompts"] == ["query", "passage"]


@pytest.mark.parametrize(
    ("task", "model_type"),
    [
        (Task.EMBEDDING, {"embedding": {"pooling": "mean"}}),
        (Task.SPARSE_EMBEDDING, {"embedding": {"pooling": "splade"}}),
        (
            Task.CLASSIFICATION,
            {
                "classifier": {
                    "id2label": {"0": "joy", "1": "anger", "2": "fear"},
                    "label2id": {"joy": 0, "anger": 1, "fear": 2},
                }
            },
        ),
        (
            Task.RERANKING,
            {"reranker": {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}},
        ),
        (
            Task.TOKEN_CLASSIFICATION,
            {
                "token_classifier": {
                    "id2label": {
                        "0": "O",
                        "1": "B-PER",
                        "2": "I-PER",
                        "3": "B-LOC",
                        "4": "I-LOC",
                    },
                    "label2id": {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3, "I-LOC": 4},
                }
            },
        ),
    ],
)
def test_info_says_what_kind_of_model_it_is(task: Task, model_type: dict[str, object]) -> None:
    info = ask("GET", "/info", engine=FakeEngine(task=task)).json()

    assert info["model_type"] == model_type


@pytest.mark.parametrize("path", ["/health", "/ping", "/", "/ready"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_healthy_server_answers_200_without_a_body(method: str, path: str) -> None:
    response = ask(method, path)

    assert (response.status_code, response.content) == (200, b"")


def test_health_costs_no_forward_pass_and_readiness_proves_one() -> None:
    engine = FakeEngine()

    ask("GET", "/health", engine=engine)
    assert engine.num_sequences == 0
    ask("GET", "/ready", engine=engine)
    assert engine.num_sequences == 1


def test_a_forward_pass_that_never_ends_makes_the_server_unhealthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("beicli.server.information.STALL_LIMIT_S", 0.0)

    response = ask("GET", "/health")

    assert response.status_code == 503
    assert response.json() == {"error": "unhealthy", "error_type": "Unhealthy"}


def test_a_draining_server_is_not_ready_but_healthy() -> None:
    admission = Admission(1)
    admission.drain()

    ready = ask("GET", "/ready", admission=admission)

    assert ready.status_code == 503
    assert ready.json() == {
        "error": "the server is shutting down",
        "error_type": "Unhealthy",
    }
    assert ask("GET", "/health", admission=admission).status_code == 200


def test_an_engine_that_fails_is_not_ready() -> None:
    closing_token = 3  # in every text, so every forward pass fails

    response = ask("GET", "/ready", engine=FakeEngine(poison_id=closing_token))

    assert response.status_code == 503
    assert response.json()["error_type"] == "Unhealthy"


def test_an_unknown_path_is_404_and_lists_the_routes() -> None:
    response = ask("POST", "/embedding", json={})

    assert response.status_code == 404
    body = response.json()
    assert (body["error"], body["error_type"]) == (
        "Unknown request URL: POST /embedding",
        "NotFound",
    )
    routes = body["hint"].removeprefix("this server has ").split(", ")
    assert len(routes) == len(set(routes))
    assert {"POST /v1/embeddings", "POST /embed", "GET /v1/models/{model_id}", "GET /"} <= set(
        routes
    )


@pytest.mark.parametrize("path", ["/v1/embedding", "/v1/embeddings/"])
def test_an_unknown_openai_path_is_refused_in_openais_shape(path: str) -> None:
    response = ask("POST", path, json={"input": "w1"})

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"
    assert response.json()["error"]["message"] == f"Unknown request URL: POST {path}"


def test_a_wrong_method_is_405_and_names_the_right_one() -> None:
    openai = ask("GET", "/v1/embeddings")
    tei = ask("DELETE", "/health")

    assert (openai.status_code, openai.headers["allow"]) == (405, "POST")
    assert openai.json()["error"] == {
        "message": "`/v1/embeddings` does not take GET",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed",
        "hint": "use POST",
    }
    assert (tei.status_code, tei.headers["allow"]) == (405, "GET, HEAD")
    assert tei.json() == {
        "error": "`/health` does not take DELETE",
        "error_type": "MethodNotAllowed",
        "hint": "use GET or HEAD",
    }
