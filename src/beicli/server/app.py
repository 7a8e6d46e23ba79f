"""The routes, and what happens where there is none."""

from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route

from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.endpoints import (
    EmbeddingsHandler,
    InferenceEndpoint,
    InformationEndpoints,
    ServerState,
)
from beicli.server.errors import AnswerErrors, MethodNotAllowedError, UnknownRouteError
from beicli.server.exchange import Admission, FinishRequestBody
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions


def create_app(
    pipeline: InferencePipeline,
    options: ServerOptions,
    *,
    metrics: ServerMetrics | None = None,
    admission: Admission | None = None,
) -> Starlette:
    """Return the ASGI application that serves `pipeline`.

    metrics: those that hear of the pipeline's batches; new ones otherwise.
    admission: what a shutdown talks to; a new one otherwise.
    """
    state = ServerState(
        pipeline=pipeline,
        options=options,
        metrics=metrics or ServerMetrics(),
        admission=admission or Admission(options.max_concurrent_requests),
    )
    state.metrics.watch_queue(lambda: pipeline.num_waiting)
    app = Starlette(
        routes=_routes(state),
        middleware=[Middleware(FinishRequestBody), Middleware(AnswerErrors)],
        exception_handlers={HTTPException: _refuse},
    )
    # A redirect would make a POST with a stray slash fail further away from its cause.
    app.router.redirect_slashes = False
    return app


def _routes(state: ServerState) -> list[Route]:
    """List the routes, the busy ones first: they are tried in this order."""
    embeddings = InferenceEndpoint(state, EmbeddingsHandler(state))
    information = InformationEndpoints(state)
    return [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/embeddings", embeddings, methods=["POST"]),
        Route("/health", information.health),
        Route("/ready", information.ready),
        Route("/metrics", information.metrics),
        Route("/info", information.info),
        Route("/v1/models", information.models),
        Route("/v1/models/{model_id:path}", information.model),
        Route("/ping", information.health),
        Route("/", information.health),
    ]


async def _refuse(request: Request, error: Exception) -> NoReturn:
    """Explain a path or method that no route takes."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.scope["path"]
    if error.status_code == MethodNotAllowedError.http_status:
        methods = sorted((error.headers or {})["Allow"].split(", "))
        raise MethodNotAllowedError(
            f"`{path}` does not take {method}",
            hint=f"use {' or '.join(methods)}",
            allow=", ".join(methods),
        )
    app: Starlette = request.app
    routes = [route for route in app.routes if isinstance(route, Route)]
    known = ", ".join(f"{_shown_method(route)} {route.path_format}" for route in routes)
    raise UnknownRouteError(
        f"Unknown request URL: {method} {path}", hint=f"this server has {known}"
    )


def _shown_method(route: Route) -> str:
    return "POST" if route.methods and "POST" in route.methods else "GET"
