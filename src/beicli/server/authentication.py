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


class Keys:
    """The keys that are accepted, of which there may be none."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._accepted = [f"{scheme} {key}".encode() for key in keys for scheme in _SCHEMES]

    def __bool__(self) -> bool:
        return bool(self._accepted)

    def find(self, scope: Scope) -> int | None:
        """Return which of them a request brings; None for none of them."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        # Every key is compared, each in constant time: the time tells nothing about any.
        matches = [hmac.compare_digest(given, accepted) for accepted in self._accepted]
        return matches.index(True) // len(_SCHEMES) if any(matches) else None


def refuse_key(scope: Scope) -> Response:
    """Return the answer to a request without a key; its body is empty, as TEI's is."""
    record_of(scope).failure = NO_KEY
    return Response(status_code=401, headers={"www-authenticate": "Bearer"})


class RequireApiKey:
    """ASGI middleware: 401 without a key.

    api_keys: any of them will do; none lets everybody in.
    own_keys: paths that ask for keys of their own.
    """

    def __init__(
        self, app: ASGIApp, *, api_keys: Sequence[str], own_keys: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._keys = Keys(api_keys)
        self._own_keys = own_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and not self._is_let_through(scope):
            number = self._keys.find(scope)
            if number is None:
                await refuse_key(scope)(scope, receive, send)
                return
            note_key(scope, number)
        await self._app(scope, receive, send)

    def _is_let_through(self, scope: Scope) -> bool:
        return scope["path"] in self._own_keys or _is_public(scope)


def _is_public(scope: Scope) -> bool:
    path: str = scope["path"]
    # `POST /` asks the model, `GET /` after the server's health.
    return path in PUBLIC_PATHS or (path == "/" and scope["method"] in {"GET", "HEAD"})
