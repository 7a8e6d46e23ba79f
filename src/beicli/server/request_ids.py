"""The id of a request, which its answer, the log and the client's own records share.

A client's id is taken as it is or not at all: cut or cleaned, nobody would find it again.
"""

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
# What a platform puts on the requests of its customers, under a name of its own.
CUSTOMER_REQUEST_ID = "x-baseten-customer-request-id"

_OWN, _CUSTOMERS = REQUEST_ID.encode(), CUSTOMER_REQUEST_ID.encode()
_NAMES = frozenset({_OWN, _CUSTOMERS})
# Visible ASCII: no line break to forge a line of the log with, no space to end a field.
_USABLE = re.compile(rb"[!-~]{1,128}")
_SCOPE_KEY = "bei.request_id"


class IdentifyRequests:
    """ASGI middleware, the outermost: finds or makes the request's id, and answers with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _usable_ids(scope)
        known = given.get(_OWN) or given.get(_CUSTOMERS) or new_request_id().encode()
        scope[_SCOPE_KEY] = known.decode()
        answered = ({**given, _OWN: known}).items()

        async def identified_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *answered]}
            await send(message)

        await self._app(scope, receive, identified_send)


def request_id(scope: Scope) -> str:
    """Return the id of the request; a new one where nobody gave it any."""
    known: str | None = scope.get(_SCOPE_KEY)
    return known or new_request_id()


def new_request_id() -> str:
    """Make an id that no other request has."""
    return secrets.token_hex(8)


def _usable_ids(scope: Scope) -> dict[bytes, bytes]:
    """Return what the client sent as ids, by the header's name, apart from what cannot be one."""
    return {
        name: value
        for name, value in scope["headers"]
        if name in _NAMES and _USABLE.fullmatch(value)
    }
