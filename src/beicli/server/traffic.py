"""Counts every answer by its route and status, whatever the route does."""

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beicli.server.metrics import ServerMetrics

# A path that no route takes; its own name would let clients fill the metrics.
UNKNOWN_ROUTE = "unknown"
# The client left before there was an answer.
DROPPED = "dropped"


class CountAnswers:
    """ASGI middleware; inside it a path must be what the routes are matched with."""

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = DROPPED

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            route = scope.get("route")
            path = route.path_format if isinstance(route, Route) else UNKNOWN_ROUTE
            self._metrics.answered(path, status)
