"""What answers have beside their content: headers, and the errors of each status."""

from collections.abc import Mapping, Sequence

from beicli.scheduler.terms import Priority
from beicli.server.errors import speaks_openai
from beicli.server.openapi.operation import JSON, JsonSchema, Operation
from beicli.server.openapi.schemas import COUNT, STRING, error_schema
from beicli.server.request_ids import REQUEST_ID
from beicli.server.terms import MILLISECONDS
from beicli.server.timings import SERVER_TIMING

_MILLISECONDS = "in whole milliseconds"

# Of every answer.
EVERY_HEADER = (REQUEST_ID,)

# Of every answer the model was asked for.
INFERENCE_HEADERS = (
    "x-compute-type",
    "x-compute-time",
    "x-compute-characters",
    "x-compute-tokens",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
    "x-bei-truncated-inputs",
    "x-bei-input-tokens",
    SERVER_TIMING,
)

HEADERS: Mapping[str, tuple[str, JsonSchema]] = {
    REQUEST_ID: ("The id the request came with, or a new one; the log has it too.", STRING),
    "x-compute-type": ("What computed it.", {"const": "cpu"}),
    "x-compute-time": (f"From the complete body to the answer, {_MILLISECONDS}.", COUNT),
    "x-compute-characters": ("Characters of the texts; token ids have none.", COUNT),
    "x-compute-tokens": ("Tokens computed, special ones included, after truncation.", COUNT),
    "x-total-time": ("The same as `x-compute-time`.", COUNT),
    "x-tokenization-time": (f"Tokenising all inputs, {_MILLISECONDS}.", COUNT),
    "x-queue-time": (f"Waiting, the mean over the inputs, {_MILLISECONDS}.", COUNT),
    "x-inference-time": (f"Computing, the mean over the inputs, {_MILLISECONDS}.", COUNT),
    "x-bei-truncated-inputs": ("Inputs that lost tokens to the model's window.", COUNT),
    "x-bei-input-tokens": (
        "Tokens of each input before truncation, with commas; only for requests that ask for it.",
        STRING,
    ),
    SERVER_TIMING: ("`tokenize`, `queue`, `inference` and `total`, in milliseconds.", STRING),
    "metadata": ("What a body of bytes holds, as JSON; only with `bytes`.", STRING),
}
# The headers that only some answers have.
_SOMETIMES = frozenset({"x-bei-input-tokens", "metadata"})

_RETURN_INPUT_TOKENS: JsonSchema = {
    "name": "x-bei-return-input-tokens",
    "in": "header",
    "required": False,
    "description": "`1` or `true` asks for the header `x-bei-input-tokens`.",
    "schema": {"type": "string"},
}

# What a request to the model may say in its headers.
INFERENCE_PARAMETERS: tuple[JsonSchema, ...] = (
    _RETURN_INPUT_TOKENS,
    {
        "name": "x-bei-priority",
        "in": "header",
        "required": False,
        "description": "Which queue to wait in; by the size of the request if left out.",
        "schema": {"enum": list(Priority)},
    },
    *(
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": f"{meaning}; the soonest of several holds.",
            "schema": {"type": "string", "pattern": f"^{MILLISECONDS}$"},
        }
        for name, meaning in (
            ("request-timeout-ms", "Milliseconds until the answer is of no use any more"),
            ("x-timeout-ms", "The same"),
            ("request-deadline-ms", "The time of day of that, in milliseconds since 1970"),
        )
    ),
)

_ERRORS: Mapping[int, str] = {
    400: "The body is not JSON, or an input is empty.",
    403: "Nobody may ask for this from there.",
    404: "There is no such thing here.",
    408: "The body did not arrive in time.",
    409: "Another is under way.",
    413: "Too many inputs, or too long a body.",
    415: "The body is not declared as plain JSON.",
    422: "A field is missing, of another type or out of range, or an input cannot be tokenised.",
    424: "The model does something else, or its forward pass failed.",
    429: "The server is full, or the deadline comes too soon; `retry-after` says when to retry.",
    500: "A bug, whose number in the message is in the log; or a reload that failed.",
    503: "The server loads its engine or is shutting down, or the engine does not answer.",
    504: "The deadline that the request gave passed before it was answered.",
}


def _references(names: Sequence[str]) -> dict[str, JsonSchema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


# Where keys are wanted.
WITHOUT_KEY: JsonSchema = {
    "description": "No key, or a wrong one; without a body.",
    "headers": _references(EVERY_HEADER),
}


def headers() -> dict[str, JsonSchema]:
    """Return the document's components of headers."""
    return {
        name: {"description": description, "required": name not in _SOMETIMES, "schema": schema}
        for name, (description, schema) in HEADERS.items()
    }


def responses(operation: Operation) -> dict[str, JsonSchema]:
    """Return what an operation may answer, by status."""
    success: JsonSchema = {
        "description": operation.answer_description,
        "headers": _references((*EVERY_HEADER, *operation.headers)),
    }
    if operation.content:
        success["content"] = {
            media_type: {"schema": schema, **_answers(operation, media_type)}
            for media_type, schema in operation.content.items()
        }
    shape = "openai" if speaks_openai(operation.path) else "tei"
    failures = {
        str(status): {"$ref": f"#/components/responses/{shape}-{status}"}
        for status in operation.errors
    }
    return {"200": success, **failures}


def error_responses() -> dict[str, JsonSchema]:
    """Return the document's components of failures."""
    return {
        f"{shape}-{status}": _error_response(status, description, is_openai=shape == "openai")
        for status, description in _ERRORS.items()
        for shape in ("openai", "tei")
    }


def _error_response(status: int, description: str, *, is_openai: bool) -> JsonSchema:
    response: JsonSchema = {
        "description": description,
        "headers": _references(EVERY_HEADER),
        "content": {JSON: {"schema": error_schema(status, is_openai=is_openai)}},
    }
    if status == 429:  # noqa: PLR2004 - its own name
        response["headers"]["retry-after"] = {
            "description": "Seconds to wait.",
            "required": True,
            "schema": {"type": "integer"},
        }
    return response


def _answers(operation: Operation, media_type: str) -> JsonSchema:
    shown = {
        example.name: {"summary": example.summary, "value": example.answer}
        for example in operation.examples
        if example.answer is not None
    }
    return {"examples": shown} if shown and media_type == JSON else {}
