"""Sees every request come and go, whatever its route does: counts, logs and traces it."""

import logging
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beicli.server.access_log import AccessLog
from beicli.server.metrics import ServerMetrics
from beicli.server.records import DROPPED, RequestRecord, begin_record, shown_route

logger = logging.getLogger(__name__)


class RequestTracer(Protocol):
    """Who makes traces of requests; apart from how, which takes an extra."""

    def write(
        self, scope: Scope, record: RequestRecord, *, route: str, status: int | None
    ) -> str | None:
        """Make the spans of a request that has ended; returns the id of their trace."""
        ...

    def close(self) -> None:
        """Send what was not sent yet."""
        ...


class CountAnswers:
    """ASGI middleware; inside it a path must be what the routes are matched with.

    access_log: None to log no requests. tracer: None to trace none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ServerMetrics,
        access_log: AccessLog | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: int | None = None
        record = begin_record(scope)

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            route = shown_route(scope)
            if status is None:
                record.failure = DROPPED
            self._metrics.answered(route, DROPPED if status is None else str(status))
            if record.failure is not None:
                self._metrics.failed(record.failure)
            record.trace_id = self._trace(scope, record, route=route, status=status)
            if self._access_log is not None:
                self._access_log.write(scope, record, route=route, status=status)

    def _trace(
        self, scope: Scope, record: RequestRecord, *, route: str, status: int | None
    ) -> str | None:
        if self._tracer is None:
            return None
        try:
            return self._tracer.write(scope, record, route=route, status=status)
        except Exception:
            # The answer is sent, and the line of the log is still to come.
            logger.exception("a request cannot be traced")
            return None
