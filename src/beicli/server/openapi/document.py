"""The OpenAPI 3.1 document of a server: all routes, marked where its model does not answer."""

from collections.abc import Iterable

from beicli import __version__
from beicli.model.routes import routes_of, tasks_of, words_for
from beicli.server.authentication import PUBLIC_PATHS
from beicli.server.openapi.cohere import cohere_operations
from beicli.server.openapi.embedding import embedding_operations
from beicli.server.openapi.operation import JSON, JsonSchema, Operation, Served
from beicli.server.openapi.responses import WITHOUT_KEY, error_responses, headers, responses
from beicli.server.openapi.schemas import components
from beicli.server.openapi.scoring import scoring_operations
from beicli.server.openapi.server import address_operations, server_operations
from beicli.server.openapi.tokens import token_operations

_DESCRIPTION = """\
The routes of `bei serve`, in the shapes of OpenAI, Cohere, text-embeddings-inference and Baseten.
A body may hold keys that are not listed: they are ignored. Every route is also served below
`/sync`, `/production/sync`, `/environments/{environment}/sync` and the like."""


def operations(served: Served) -> list[Operation]:
    """Describe every route, in the order a reader wants them."""
    inferring = [
        *embedding_operations(served),
        *scoring_operations(served),
        *cohere_operations(served),
        *token_operations(served),
    ]
    return [*inferring, *address_operations(served, inferring), *server_operations(served)]


def is_available(operation: Operation, served: Served) -> bool:
    """Whether a model of the server answers a route."""
    models = (served.model, *(model for _, model in served.others))
    return operation.tasks is None or any(operation.tasks & tasks_of(each) for each in models)


def create_document(served: Served) -> JsonSchema:
    """Return the document, ready to be written as JSON."""
    found = operations(served)
    is_guarded = bool(served.options.api_keys)
    paths: dict[str, JsonSchema] = {}
    for operation in found:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, served)
    document: JsonSchema = {
        "openapi": "3.1.0",
        "info": {
            "title": f"{served.model_name}, served by bei",
            "version": __version__,
            "summary": f"{_kind(served)}: {', '.join(routes_of(served.model))}",
            "description": _DESCRIPTION + _say_models(served),
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in _in_order(operation.tag for operation in found)],
        "paths": paths,
        "components": {
            "schemas": components(served),
            "headers": headers(),
            "responses": error_responses(),
        },
    }
    if is_guarded:
        bearer = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"key": bearer}
        document["security"] = [{"key": []}]
    return document


def _say_models(served: Served) -> str:
    if not served.others:
        return ""
    names = ", ".join(f"`{name}`" for name in (served.model_name, *(n for n, _ in served.others)))
    return (
        f"\n\nThis server has several models: {names}. The field `model` of any body names the one "
        "that is asked; without it the first one answers that does what the route asks for."
    )


def _describe(operation: Operation, served: Served) -> JsonSchema:
    available = is_available(operation, served)
    description = operation.description
    if not available:
        description += f" `{served.model_name}` is {words_for(served.model.task)} and answers 424."
    described: JsonSchema = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": description,
        "x-bei-available": available,
        "responses": responses(operation),
    }
    if operation.tasks is not None:
        described["x-bei-tasks"] = sorted(operation.tasks)
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.request is not None:
        described["requestBody"] = _request_body(operation, operation.request)
    if served.options.api_keys and _is_public(operation):
        described["security"] = []
    elif served.options.api_keys:
        described["responses"]["401"] = WITHOUT_KEY
    return described


def _request_body(operation: Operation, schema: JsonSchema) -> JsonSchema:
    examples = {
        example.name: {"summary": example.summary, "value": example.body}
        for example in operation.examples
    }
    return {"required": True, "content": {JSON: {"schema": schema, "examples": examples}}}


def _is_public(operation: Operation) -> bool:
    # `GET /` asks for health, `POST /` asks the model.
    return operation.path in PUBLIC_PATHS or (operation.path, operation.method) == ("/", "get")


def _kind(served: Served) -> str:
    return words_for(served.model.task).capitalize()


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
