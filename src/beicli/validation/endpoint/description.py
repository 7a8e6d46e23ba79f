"""What a server says about itself: the names of its models, their kind, and its limits."""

import re
from dataclasses import dataclass
from typing import Any

from beicli.validation.endpoint.checks import is_count
from beicli.validation.endpoint.server import Server
from beicli.validation.endpoint.words import is_encodable

_MAX_MODELS = 5
_MAX_SHOWN_BATCH_SIZE = 10_000
_FITTING = re.compile(r"embed|rerank", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is known before the first question.

    models: names to try, the likeliest first; never empty. listed_models: all that the server
    lists. kind: of the model as `/info` tells it, such as `reranker`; None without `/info` of TEI.
    max_batch_size: inputs a request may hold, None if the server does not say.
    """

    models: tuple[str, ...]
    listed_models: tuple[str, ...]
    kind: str | None
    max_batch_size: int | None


def describe(server: Server, *, model: str | None) -> Description:
    """Ask the server; model: a name that is known already. Raises NoAnswerError if it is down."""
    info = _object(server, "/info")
    listed = _listed_models(server)
    limit = info.get("max_client_batch_size")
    return Description(
        models=(model,) if model is not None else _names_to_try(listed, info),
        listed_models=listed,
        kind=_kind(info.get("model_type")),
        # No request of more inputs than that is sent to find out whether it is refused.
        max_batch_size=limit if is_count(limit) and 0 < limit < _MAX_SHOWN_BATCH_SIZE else None,
    )


def _object(server: Server, path: str) -> dict[str, Any]:
    answer = server.look_up(path)
    value = answer.value if answer is not None and answer.is_success else None
    return value if isinstance(value, dict) else {}


def _listed_models(server: Server) -> tuple[str, ...]:
    for path in ("/v1/models", "/models"):
        entries = _object(server, path).get("data")
        if isinstance(entries, list):
            ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
            names = [name for name in ids if isinstance(name, str) and is_encodable(name)]
            if names:
                return tuple(names)
    return ()


def _names_to_try(listed: tuple[str, ...], info: dict[str, Any]) -> tuple[str, ...]:
    """Choose names; many servers do not care what their model is called, so any name will do."""
    if listed:
        return tuple(sorted(listed, key=lambda name: _FITTING.search(name) is None)[:_MAX_MODELS])
    name = info.get("model_id")
    return (name if isinstance(name, str) and is_encodable(name) else "model",)


def _kind(model_type: object) -> str | None:
    if not isinstance(model_type, dict) or not model_type:
        return None
    kind, details = next(iter(model_type.items()))
    if isinstance(details, dict) and details.get("pooling") == "splade":
        return "sparse embedding"
    return str(kind)
