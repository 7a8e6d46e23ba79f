"""Which of several engines a request asks: the one that its field `model` names.

Without that field it is the first, in the order of the command line, that does what the route asks
for. A server of one engine has none of this: there `model` may name any.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from beicli.model.routes import answers
from beicli.server import fields
from beicli.server.errors import UnknownModelError
from beicli.server.exchange import Admission, DisconnectWatch, check_content_type, read_body
from beicli.server.inference import InferenceEndpoint, ServerState, failure_of
from beicli.server.negotiation import negotiate
from beicli.server.records import record_of
from beicli.server.terms import read_terms, within


class ChoosingEndpoint:
    """ASGI endpoint around those of the same route, one for each engine.

    endpoints: with their engines, by name.
    entrance: limits who is inside before it is known which engine they ask; each engine then
    admits by itself.
    """

    def __init__(
        self,
        endpoints: Mapping[str, tuple[ServerState, InferenceEndpoint]],
        *,
        path: str,
        entrance: Admission,
    ) -> None:
        self._endpoints = endpoints
        # Where nobody does what the route asks for, the first says so.
        self._default = next(
            (name for name, (state, _) in endpoints.items() if answers(path, state.pipeline.model)),
            next(iter(endpoints)),
        )
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        state, endpoint = self._endpoints[self._default]
        try:
            terms = read_terms(headers)
            with self._entrance, state.key_gates.of(scope), terms.apply():
                check_content_type(headers)
                async with within(terms.deadline):
                    body = await read_body(headers, receive, max_bytes=state.options.max_body_bytes)
                started_at = time.perf_counter()
                found = endpoint.read(body)
                state, endpoint = self._choose(found)
                with state.admission:
                    endpoint.check_admission(terms)
                    async with within(terms.deadline), DisconnectWatch(receive):
                        response = await endpoint.respond(
                            found, negotiate(headers), record_of(scope), started_at
                        )
                    await response(scope, receive, send)
        except Exception as error:
            state.metrics.request_failed(failure_of(error))
            raise

    def _choose(self, body: dict[str, Any]) -> tuple[ServerState, InferenceEndpoint]:
        name = fields.optional(body, "model", str, "a string")
        if name is None:
            return self._endpoints[self._default]
        if name not in self._endpoints:
            raise unknown_model(name, self._endpoints)
        return self._endpoints[name]


def unknown_model(asked: str, names: Iterable[str]) -> UnknownModelError:
    """Say that there is no such model, and which there are."""
    return UnknownModelError(
        f"The model `{asked}` does not exist",
        hint=f"this server has {', '.join(f'`{name}`' for name in names)}",
        param="model",
    )
