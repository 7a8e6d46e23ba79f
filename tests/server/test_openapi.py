"""The document says what the routes do: each example of it is sent, each route looked up in it."""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi import definitions
from starlette.routing import Route
from tests.server.fakes import FakeEngine, ask, ask_all, make_manifest, make_pipeline

from beicli.model.routes import routes_of
from beicli.model.spec import Task
from beicli.server.app import create_app
from beicli.server.errors import WORDS, MethodNotAllowedError
from beicli.server.openapi.document import create_document, is_available, operations
from beicli.server.openapi.operation import JSON, Example, Operation, Served
from beicli.server.openapi.responses import EVERY_HEADER, HEADERS, INFERENCE_HEADERS
from beicli.server.options import ServerOptions

tasks = pytest.mark.parametrize("task", Task)


def served(task: Task, options: ServerOptions | None = None) -> Served:
    return Served.of(make_manifest(task), options or ServerOptions())


@lru_cache
def document(task: Task) -> dict[str, Any]:
    parsed: dict[str, Any] = ask("GET", "/openapi.json", engine=FakeEngine(task)).json()
    return parsed


def validator(task: Task, schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Make a validator of one schema of the document, with all it may refer to."""
    return jsonschema_rs.Draft202012Validator(
        {**schema, "components": document(task)["components"]}
    )


def problems(task: Task, schema: Mapping[str, Any], value: object) -> list[str]:
    return [error.message for error in validator(task, schema).iter_errors(value)]


@tasks
def test_the_document_is_openapi(task: Task) -> None:
    # The specification's own schema, which leaves the schemas inside to JSON Schema's.
    specification = jsonschema_rs.validator_for(definitions.OPENAPI_31)

    assert [error.message for error in specification.iter_errors(document(task))] == []


@tasks
def test_every_schema_in_the_document_is_a_schema(task: Task) -> None:
    for operation in operations(served(task)):
        for schema in [operation.request or {}, *operation.content.values()]:
            jsonschema_rs.meta.validate({"$schema": DRAFT, **schema})
            validator(task, schema)
    for schema in document(task)["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": DRAFT, **schema})


DRAFT = "https://json-schema.org/draft/2020-12/schema"


@tasks
def test_the_document_has_every_route_and_no_other(task: Task) -> None:
    described = {
        (method.upper(), path)
        for path, methods in document(task)["paths"].items()
        for method in methods
    }

    assert described == app_routes(task)


def app_routes(task: Task) -> set[tuple[str, str]]:
    async def routes() -> set[tuple[str, str]]:
        with make_pipeline(FakeEngine(task)) as pipeline:
            app = create_app(pipeline, ServerOptions())
            return {
                (method, route.path_format)
                for route in app.routes
                if isinstance(route, Route)
                # `HEAD` comes with `GET`.
                for method in (route.methods or set()) - {"HEAD"}
            }

    return asyncio.run(routes())


@tasks
def test_each_operation_has_a_name_of_its_own_and_an_example(task: Task) -> None:
    found = operations(served(task))

    assert len({operation.name for operation in found}) == len(found)
    for operation in found:
        names = [example.name for example in operation.examples]
        assert names, operation.path
        assert len(set(names)) == len(names)


@tasks
def test_examples_fit_their_own_schemas(task: Task) -> None:
    for operation in operations(served(task)):
        for example in operation.examples:
            place = (operation.path, example.name)
            if operation.request is not None:
                assert (place, problems(task, operation.request, example.body)) == (place, [])
            if example.answer is not None:
                schema = without_label_names(operation.content[JSON])
                assert (place, problems(task, schema, example.answer)) == (place, [])


def without_label_names(schema: Any) -> Any:
    """Drop what depends on the fake model's labels: examples show those of real ones."""
    if isinstance(schema, dict):
        is_label = schema.get("$ref") == "#/components/schemas/Label"
        return {} if is_label else {k: without_label_names(v) for k, v in schema.items()}
    return [without_label_names(item) for item in schema] if isinstance(schema, list) else schema


@tasks
def test_every_example_gets_an_answer_of_the_documented_shape(task: Task) -> None:
    found = [(op, example) for op in operations(served(task)) for example in op.examples]

    answers = ask_all([request_of(*item) for item in found], engine=FakeEngine(task))

    for (operation, example), response in zip(found, answers, strict=True):
        place = (operation.method, operation.path, example.name)
        if not is_available(operation, served(task)):
            assert (place, response.status_code) == (place, 424)
            continue
        assert (place, response.status_code) == (place, 200)
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if not operation.content:
            assert (place, response.content) == (place, b"")
            continue
        assert media_type in operation.content, place
        if media_type == JSON:
            schema = operation.content[JSON]
            assert (place, problems(task, schema, response.json())) == (place, [])


def request_of(operation: Operation, example: Example) -> tuple[str, str, dict[str, object]]:
    path = operation.path.replace("{model_id}", "tiny")
    body: dict[str, object] = {} if example.body is None else {"json": example.body}
    return operation.method.upper(), path, body


@tasks
def test_answers_have_the_documented_headers(task: Task) -> None:
    found = [op for op in operations(served(task)) if is_available(op, served(task))]

    answers = ask_all([request_of(op, op.examples[0]) for op in found], engine=FakeEngine(task))

    for operation, response in zip(found, answers, strict=True):
        shown = {name for name in response.headers if name.startswith("x-") or name in HEADERS}
        always = {*EVERY_HEADER, *operation.headers} - {"x-bei-input-tokens", "metadata"}
        shown -= {"x-content-type-options"}
        assert (operation.path, shown) == (operation.path, always)


def test_input_lengths_are_told_where_the_document_says_so() -> None:
    headers = {"x-bei-return-input-tokens": "1"}
    for task in Task:
        found = [op for op in operations(served(task)) if is_available(op, served(task))]
        inferring = [op for op in found if "x-bei-input-tokens" in op.headers]
        requests = [request_of(op, op.examples[0]) for op in inferring]

        answers = ask_all(
            [(method, path, {**body, "headers": headers}) for method, path, body in requests],
            engine=FakeEngine(task),
        )

        assert len(answers) >= 4
        assert all("x-bei-input-tokens" in response.headers for response in answers)


@tasks
def test_what_a_model_answers_is_said_in_one_way(task: Task) -> None:
    described = served(task)
    marked = {
        path
        for path, methods in document(task)["paths"].items()
        if "x-bei-tasks" in methods.get("post", {}) and methods["post"]["x-bei-available"]
    }

    assert set(routes_of(described.model)) <= marked
    # `/embeddings` is an older name, and every reranker is a classifier as well.
    assert marked - set(routes_of(described.model)) <= {"/embeddings"}


def test_limits_of_the_server_and_its_model_are_in_the_document() -> None:
    options = ServerOptions(max_client_batch_size=3, on_too_long="error")

    found = create_document(served(Task.EMBEDDING, options))

    schemas = found["components"]["schemas"]
    assert schemas["Inputs"]["anyOf"][2]["maxItems"] == 3
    assert schemas["TokenId"]["maximum"] == 3003
    body = found["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"][JSON]["schema"]
    assert body["properties"]["dimensions"]["maximum"] == 8
    assert body["properties"]["truncate"]["default"] is False


@tasks
def test_every_kind_of_failure_is_in_the_document(task: Task) -> None:
    responses = document(task)["components"]["responses"]

    for kind in WORDS:
        # A method that is not taken belongs to no operation.
        if kind is MethodNotAllowedError:
            continue
        assert f"tei-{kind.http_status}" in responses
        words = responses[f"openai-{kind.http_status}"]["content"][JSON]["schema"]["allOf"][1]
        codes = words["properties"]["error"]["properties"]["code"]["enum"]
        assert WORDS[kind].code in codes


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/embeddings", {"input": []}, 400),
        ("/v1/embeddings", {"input": 1}, 422),
        ("/v2/rerank", {"query": "a", "documents": ["b"]}, 424),
        ("/rerank", {"query": "a", "texts": ["b"]}, 424),
        ("/embed", {"inputs": ["w1"] * 129}, 413),
    ],
)
def test_failures_have_the_documented_shape(path: str, body: object, status: int) -> None:
    response = ask("POST", path, json=body)

    reference = document(Task.EMBEDDING)["paths"][path]["post"]["responses"][str(status)]["$ref"]
    described = document(Task.EMBEDDING)["components"]["responses"][reference.rpartition("/")[2]]
    schema = described["content"][JSON]["schema"]
    assert response.status_code == status
    assert problems(Task.EMBEDDING, schema, response.json()) == []
    assert problems(Task.EMBEDDING, schema, {"error": "a plain text"}) != []


def test_the_document_is_at_both_addresses() -> None:
    first, second = ask_all([("GET", "/openapi.json", {}), ("GET", "/api-doc/openapi.json", {})])

    assert first.headers["content-type"] == "application/json"
    assert first.content == second.content


def test_keys_are_asked_for_where_the_document_says_so() -> None:
    options = ServerOptions(api_keys=("secret",))
    described = create_document(served(Task.EMBEDDING, options))
    found = operations(served(Task.EMBEDDING))

    answers = ask_all([request_of(op, op.examples[0]) for op in found], options=options)

    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for operation, response in zip(found, answers, strict=True):
        entry = described["paths"][operation.path][operation.method]
        is_public = entry.get("security") == []
        assert ("401" in entry["responses"]) != is_public
        assert (operation.path, response.status_code == 401) == (operation.path, not is_public)


def test_a_server_without_keys_does_not_speak_of_them() -> None:
    found = document(Task.EMBEDDING)

    assert "security" not in found
    assert "securitySchemes" not in found["components"]


def test_headers_of_text_embeddings_inference_are_all_there() -> None:
    assert {
        name
        for name in INFERENCE_HEADERS
        if name.startswith("x-") and not name.startswith("x-bei-")
    } == {
        "x-compute-type",
        "x-compute-time",
        "x-compute-characters",
        "x-compute-tokens",
        "x-total-time",
        "x-tokenization-time",
        "x-queue-time",
        "x-inference-time",
    }
