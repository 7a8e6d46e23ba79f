"""Who may ask: with keys set, every route but the public ones wants one of them."""

import hmac
from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from beicli.server.key_limits import note_key
from beicli.server.records import record_of

# What a platform checks, and what describes the server without its model's answers.
PUBLIC_PATHS = frozenset(
    {"/health", "/ready", "/ping", "/metrics", "/docs", "/openapi.json", "/api-doc/openapi.json"}
)
# `Api-Key` is what older clients of the Baseten platform send.
_SCHEMES = ("Bearer", "Api-Key")

# What the metrics and the log call it.
NO_KEY = "invalid_api_key"


class RequireApiKey:
    """ASGI middleware: 401 with an empty body, as text-embeddings-inference answers.

    api_keys: any of them will do; none lets everybody in.
    """

    def __init__(self, app: ASGIApp, *, api_keys: Sequence[str]) -> None:
        self._app = app
        self._accepted = [f"{scheme} {key}".encode() for key in api_keys for scheme in _SCHEMES]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._accepted and not _is_public(scope):
            given = dict(scope["headers"]).get(b"authorization", b"")
            # Every key is compared, each in constant time: the time tells nothing about any.
            matches = [hmac.compare_digest(given, accepted) for accepted in self._accepted]
            if not any(matches):
                record_of(scope).failure = NO_KEY
                refusal = Response(status_code=401, headers={"www-authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
            note_key(scope, matches.index(True) // len(_SCHEMES))
        await self._app(scope, receive, send)


def _is_public(scope: Scope) -> bool:
    path: str = scope["path"]
    # `POST /` asks the model, `GET /` after the server's health.
    return path in PUBLIC_PATHS or (path == "/" and scope["method"] in {"GET", "HEAD"})
