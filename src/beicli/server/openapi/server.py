"""The routes that lead to others, and those about the server itself."""

from dataclasses import replace
from typing import Any

from beicli.model.routes import PLATFORM_MODEL_NAME, root_route
from beicli.server.admin import RELOAD_PATH
from beicli.server.openapi.operation import (
    JSON,
    Example,
    JsonSchema,
    Operation,
    Served,
    negotiated,
)
from beicli.server.openapi.responses import INFERENCE_HEADERS
from beicli.server.openapi.schemas import COUNT, STRING, array, body, described, record

_ADDRESSES = "Other addresses"
_SERVER = "Server"

_MODEL = record(
    {
        "id": described(STRING, "What this server calls its model."),
        "object": {"const": "model"},
        "created": described({"type": "integer"}, "When the engine was built, in seconds."),
        "owned_by": STRING,
    }
)
_MODEL_ANSWER = {
    "id": "all-minilm-l6-v2",
    "object": "model",
    "created": 1767323045,
    "owned_by": "bei",
}


def address_operations(served: Served, operations: list[Operation]) -> list[Operation]:
    """Describe the addresses that lead to one of `operations`, as the model's task decides."""
    route = root_route(served.model)
    target = next(operation for operation in operations if operation.path == route)
    root = replace(
        target,
        path="/",
        tag=_ADDRESSES,
        summary=f"The same as {route}",
        description=(
            "Leads to the route that fits the model: `/embed`, `/embed_sparse`, `/predict`, "
            "`/rerank` or `/predict_tokens`."
        ),
        tasks=None,
        same_as=route,
    )
    invocations = replace(
        root,
        path="/invocations",
        description="What SageMaker calls.",
    )
    return [root, invocations, _vertex(served, target)]


def _vertex(served: Served, target: Operation) -> Operation:
    assert target.request is not None, "routes that infer take a body"
    instance = target.request
    if "encoding_format" in instance["properties"]:
        is_raw = {"enum": ["bytes", "bytes_only"]}
        no_bytes = {"properties": {"encoding_format": {"not": is_raw}}}
        instance = {"allOf": [instance, no_bytes]}
    limit = served.options.max_client_batch_size
    headers = tuple(name for name in target.headers if name in INFERENCE_HEADERS)
    return replace(
        target,
        path="/vertex",
        tag=_ADDRESSES,
        summary=f"Several bodies for {target.path} in one",
        description=(
            f"What Vertex AI calls: each of the `instances` is a body for `{target.path}`, each of "
            "the `predictions` its answer. All together may hold as many inputs as one request."
        ),
        tasks=None,
        headers=headers,
        request=body(
            {
                "instances": described(
                    array(instance, min_items=1, max_items=limit), f"Bodies for `{target.path}`."
                )
            },
            required=["instances"],
        ),
        answer_description="One answer an instance, in their order.",
        content=negotiated(record({"predictions": array(target.content[JSON], min_items=1)})),
        examples=tuple(
            Example(
                example.name,
                example.summary,
                {"instances": [example.body]},
                {"predictions": [example.answer]},
            )
            for example in target.examples
        ),
    )


def server_operations(served: Served) -> list[Operation]:
    """Describe what the server says about itself."""
    health = _get(
        "/health",
        "Whether the process is worth keeping",
        "Fails when a forward pass has been running for a minute. Costs nothing.",
        errors=(503,),
    )
    openapi = _get(
        "/openapi.json",
        "This document",
        "OpenAPI 3.1; routes that the model does not answer have `x-bei-available: false`.",
        content={JSON: {"type": "object"}},
    )
    ping = replace(
        health,
        path="/ping",
        summary="The same as /health",
        description="What SageMaker asks for.",
        same_as="/health",
    )
    return [
        health,
        ping,
        replace(ping, path="/", description="What a Truss platform asks for."),
        _get(
            "/ready",
            "Whether to send requests here",
            "Runs a short forward pass if none succeeded within the last 30 seconds; fails while "
            "the last canary found wrong numbers.",
            errors=(503,),
        ),
        _get(
            "/metrics",
            "Metrics in the Prometheus text format",
            "Named as in text-embeddings-inference, where it has them.",
            content={"text/plain": STRING},
        ),
        _info(served),
        *_models(served),
        _reload(),
        openapi,
        replace(
            openapi,
            path="/api-doc/openapi.json",
            summary="The same as /openapi.json",
            description="Where text-embeddings-inference has it.",
        ),
        _get(
            "/docs",
            "This document as a page",
            "One page that loads nothing else.",
            content={"text/html": STRING},
        ),
    ]


def _get(path: str, summary: str, description: str, **more: Any) -> Operation:
    """Describe a route without a body; its one example is that there is nothing to say."""
    return Operation(
        **{
            "method": "get",
            "path": path,
            "tag": _SERVER,
            "summary": summary,
            "description": description,
            "answer_description": f"{summary}." if "content" in more else "Yes; without a body.",
            "content": {},
            "examples": (Example("plain", summary, None, None),),
            **more,
        }
    )


def _info(served: Served) -> Operation:
    positive = {**COUNT, "minimum": 1}
    nothing: JsonSchema = {"type": ["string", "null"]}
    schema = record(
        {
            "model_id": STRING,
            "model_sha": described(nothing, "The checkpoint's revision."),
            "model_dtype": described(STRING, "What the engine computes in."),
            "served_model_name": STRING,
            "models": described(array(STRING), "Names of all models, if there are several."),
            "model_type": described(
                {"type": "object", "minProperties": 1, "maxProperties": 1},
                "`embedding` with its pooling; or `classifier`, `reranker` or `token_classifier` "
                "with its labels.",
            ),
            "prompts": described(array(STRING), "Names of the model's own prompts."),
            "max_concurrent_requests": positive,
            "max_input_length": described(positive, "Tokens of an input, special ones included."),
            "max_batch_tokens": positive,
            "max_batch_requests": positive,
            "max_client_batch_size": described(positive, "Inputs in a request."),
            "auto_truncate": {"type": "boolean"},
            "tokenization_workers": positive,
            "replicas": positive,
            "version": described(STRING, "Of bei."),
            "sha": nothing,
            "docker_label": nothing,
        },
        optional=["models"],
    )
    return _get(
        "/info",
        "The model and the limits",
        "With the keys of text-embeddings-inference.",
        content={JSON: schema},
        examples=(Example("plain", "The model and the limits", None, _info_answer(served)),),
    )


def _info_answer(served: Served) -> JsonSchema:
    return {
        "model_id": "sentence-transformers/all-MiniLM-L6-v2",
        "model_sha": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        "model_dtype": "float32",
        "served_model_name": "all-minilm-l6-v2",
        "model_type": {"embedding": {"pooling": "mean"}},
        "prompts": [],
        "max_concurrent_requests": served.options.max_concurrent_requests,
        "max_input_length": 256,
        "max_batch_tokens": 16384,
        "max_batch_requests": 256,
        "max_client_batch_size": served.options.max_client_batch_size,
        "auto_truncate": served.options.on_too_long == "truncate",
        "tokenization_workers": 4,
        "replicas": 1,
        "version": "0.1.0",
        "sha": None,
        "docker_label": None,
    }


def _reload() -> Operation:
    model = record({"id": STRING, "digest": described(STRING, "Of its manifest.")})
    answer = {"models": [{"id": "all-minilm-l6-v2", "digest": "5f0c" * 16}]}
    return replace(
        _get(
            RELOAD_PATH,
            "Serve what the engine's path holds now",
            "The new engine is verified, loaded and tried before it takes the place of the one "
            "that serves; if anything is wrong with it, the old one goes on. It wants a key of "
            "`--admin-key-file`, else an API key; without either only this machine may ask. A body "
            "is not read.",
            content={JSON: record({"models": array(model, min_items=1)})},
            errors=(403, 409, 500, 503),
            examples=(Example("plain", "The engine that serves now", None, answer),),
        ),
        method="post",
    )


def _models(served: Served) -> list[Operation]:
    listing = record({"object": {"const": "list"}, "data": array(_MODEL, min_items=1)})
    model_id: JsonSchema = {
        "name": "model_id",
        "in": "path",
        "required": True,
        "description": f"The model's name, which may hold slashes, or `{PLATFORM_MODEL_NAME}`.",
        "schema": {"type": "string", "minLength": 1},
        "examples": {
            "platform": {"value": PLATFORM_MODEL_NAME},
            "served": {"value": served.model_name},
        },
    }
    return [
        _get(
            "/v1/models",
            "The models, of which there is one",
            "In OpenAI's shape.",
            content={JSON: listing},
            examples=(
                Example("plain", "The model", None, {"object": "list", "data": [_MODEL_ANSWER]}),
            ),
        ),
        _get(
            "/v1/models/{model_id}",
            "The model of a name",
            f"In OpenAI's shape. `{PLATFORM_MODEL_NAME}` stands for the model of this server, and "
            "fails while it is not ready: that is what a Truss platform asks for.",
            content={JSON: _MODEL},
            errors=(404, 503),
            parameters=(model_id,),
            examples=(Example("plain", "The model", None, _MODEL_ANSWER),),
        ),
    ]
