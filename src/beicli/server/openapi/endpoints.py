"""`/openapi.json` and `/docs`."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from beicli.server.inference import ServerState
from beicli.server.openapi.docs_page import CONTENT_SECURITY_POLICY, render_page
from beicli.server.openapi.document import create_document
from beicli.server.openapi.operation import JsonSchema, Served

_HOST = re.compile(r"[\w.-]+(?::\d+)?|\[[0-9a-fA-F:.]+\](?::\d+)?", re.ASCII)


class DescriptionEndpoints:
    """What the server says about its own routes; put together when first asked for."""

    def __init__(self, states: Sequence[ServerState]) -> None:
        self._state, *self._others = states

    async def openapi(self, _: Request) -> Response:
        """`GET /openapi.json`."""
        return Response(orjson.dumps(self._document), media_type="application/json")

    async def docs(self, request: Request) -> Response:
        """`GET /docs`."""
        return HTMLResponse(
            render_page(self._document, base_url=self._base_url(request)),
            headers={
                "content-security-policy": CONTENT_SECURITY_POLICY,
                "referrer-policy": "no-referrer",
                "x-content-type-options": "nosniff",
            },
        )

    @cached_property
    def _document(self) -> JsonSchema:
        others = tuple((other.model_name, other.pipeline.model) for other in self._others)
        served = Served.of(self._state.pipeline.manifest, self._state.options)
        return create_document(replace(served, others=others))

    def _base_url(self, request: Request) -> str:
        """Return the address the client reached the server at."""
        host = request.headers.get("host", "")
        if _HOST.fullmatch(host) is None:
            host = f"127.0.0.1:{self._state.options.port}"
        return f"{request.url.scheme}://{host}"
