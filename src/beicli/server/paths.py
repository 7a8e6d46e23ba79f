"""The addresses a Truss platform puts before a model's own, so a client changes only the host.

`/environments/production/sync/v1/embeddings` is `/v1/embeddings`, and the bare address
`/environments/production/predict` is whatever route the model answers by default.
"""

import re
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

_DEPLOYMENT = r"/(?:environments/[^/]+|deployment/[^/]+|production|development)"
_SYNC = re.compile(rf"(?:{_DEPLOYMENT})?/sync(?P<route>/.*)?", re.DOTALL)
_BARE = re.compile(rf"{_DEPLOYMENT}/predict|/v1/models/model:predict")
_ASYNC = re.compile(rf"(?:{_DEPLOYMENT})?/async(?:_predict|/.*)?", re.DOTALL)

# A route of the platform's own that a configuration may name as the default.
_SYSTEM_ONE = "/v1/systemone"


def route_behind(path: str, *, default_route: str) -> str:
    """Return the route that a platform's address `path` stands for; a route stands for itself.

    default_route: where the bare predict address leads.
    """
    if (synchronous := _SYNC.fullmatch(path)) is not None:
        return synchronous["route"] or "/"
    return default_route if _BARE.fullmatch(path) is not None else path


def why_unserved(path: str) -> str | None:
    """Say why the platform's route `path` is not served here; None if it is none of these."""
    if _ASYNC.fullmatch(path) is not None:
        return (
            "asynchronous requests are a service of the platform, not of its engines: send the "
            "same body to the route itself, such as `/predict`, and wait for the answer"
        )
    if path == _SYSTEM_ONE:
        return (
            f"`{_SYSTEM_ONE}` asks a generative model, and this server runs embedding models, "
            "classifiers and rerankers: set `webserver_default_route` to a route this model "
            "answers, or leave it out"
        )
    return None


class PlatformPaths:
    """ASGI middleware: everything inside it, errors included, sees the route behind an address."""

    def __init__(self, app: ASGIApp, *, default_route: str) -> None:
        self._app = app
        self._default_route = default_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = route_behind(scope["path"], default_route=self._default_route)
            if path != scope["path"]:
                scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        await self._app(scope, receive, send)
