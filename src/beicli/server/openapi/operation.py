"""What the document says about one route, and about the server it describes.

Each route has one owner: the function in `embedding.py`, `scoring.py`, `tokens.py` or `server.py`
that makes its `Operation`. The page `/docs`, `docs/reference/http-examples.md` and the tests that
send every example read the same objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from beicli.artifact.manifest import Limits, Manifest
from beicli.model.spec import ModelSpec, Task
from beicli.server.options import ServerOptions

# JSON Schema, draft 2020-12, as OpenAPI 3.1 has it.
JsonSchema = dict[str, Any]
Method = Literal["get", "post"]

JSON = "application/json"
MSGPACK = "application/msgpack"
RAW = "application/octet-stream"

# Whatever asks the model may fail in these ways.
INFERENCE_ERRORS = (400, 408, 413, 415, 422, 424, 429, 500, 503, 504)


@dataclass(frozen=True, slots=True)
class Served:
    """The server a document describes; others: models beside the first, with names."""

    model_name: str
    model: ModelSpec
    limits: Limits
    options: ServerOptions
    others: tuple[tuple[str, ModelSpec], ...] = ()

    @classmethod
    def of(cls, manifest: Manifest, options: ServerOptions) -> "Served":
        """Describe the server of an engine."""
        name = options.served_model_name or manifest.name
        return cls(name, manifest.model, manifest.limits, options)


@dataclass(frozen=True, slots=True)
class Example:
    """A request body that works, and what an answer to it looks like.

    name: of one word, for its route. body: None for routes that take none.
    answer: with numbers of no particular model; None if it is not JSON.
    """

    name: str
    summary: str
    body: JsonSchema | None
    answer: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    tasks: the models that answer it, None for any.
    request: schema of the body, None if there is none.
    content: schema of a successful answer by media type; empty if it has no body.
    answer_description: what a successful answer is.
    errors: the statuses it may fail with. headers: of a successful answer, keys of `HEADERS`.
    same_as: the path of the route that this is another address of; a page need not repeat it.
    """

    method: Method
    path: str
    tag: str
    summary: str
    description: str
    answer_description: str
    content: Mapping[str, JsonSchema]
    examples: tuple[Example, ...]
    tasks: frozenset[Task] | None = None
    request: JsonSchema | None = None
    errors: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()
    parameters: tuple[JsonSchema, ...] = ()
    same_as: str | None = None

    @property
    def name(self) -> str:
        """Unique in the document, such as `post_v1_embeddings`."""
        words = self.path.replace("{", "").replace("}", "").replace(".", "/").replace("-", "/")
        return "_".join([self.method, *filter(None, words.split("/"))])


def negotiated(schema: JsonSchema) -> dict[str, JsonSchema]:
    """An answer in JSON or, if the client prefers it, in MessagePack."""
    return {JSON: schema, MSGPACK: schema}
