"""The routes, and what happens where there is none."""

from typing import Any, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from beicli.model.routes import platform_route, root_route
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.access_log import AccessLog
from beicli.server.admin import RELOAD_PATH, AdminEndpoints, Reload
from beicli.server.authentication import RequireApiKey
from beicli.server.choosing import ChoosingEndpoint
from beicli.server.cohere_embed import CohereEmbedHandler
from beicli.server.cohere_rerank import CohereRerankHandler
from beicli.server.cors import cors
from beicli.server.entities import PredictTokensHandler
from beicli.server.errors import AnswerErrors, MethodNotAllowedError, ReloadError, UnknownRouteError
from beicli.server.exchange import Admission, FinishRequestBody
from beicli.server.inference import InferenceEndpoint, InferenceHandler, ServerState, WholeServer
from beicli.server.information import InformationEndpoints
from beicli.server.key_limits import KeyGates
from beicli.server.metrics import ServerMetrics
from beicli.server.openai_embeddings import EmbeddingsHandler
from beicli.server.openapi.endpoints import DescriptionEndpoints
from beicli.server.options import ServerOptions
from beicli.server.paths import PlatformPaths, why_unserved
from beicli.server.predict import PredictHandler
from beicli.server.request_ids import IdentifyRequests
from beicli.server.rerank import RerankHandler
from beicli.server.sparse import EmbedSparseHandler
from beicli.server.tei_embeddings import EmbedAllHandler, EmbedHandler, SimilarityHandler
from beicli.server.tokens import DecodeHandler, TokenizeHandler
from beicli.server.traffic import CountAnswers
from beicli.server.vertex import VertexHandler
from beicli.server.watchers import Watchers


def create_app(
    pipeline: InferencePipeline,
    options: ServerOptions,
    *,
    metrics: ServerMetrics | None = None,
    admission: Admission | None = None,
    watchers: Watchers | None = None,
) -> Starlette:
    """Return the ASGI application that serves `pipeline`.

    metrics: those that hear of the pipeline's batches; new ones otherwise.
    admission: what a shutdown talks to; a new one otherwise.
    watchers: what else there is around it, and is run elsewhere; None if there is nothing.
    """
    watchers = watchers or Watchers()
    state = ServerState(
        pipeline=pipeline,
        options=options,
        metrics=metrics or ServerMetrics(),
        admission=admission or Admission(options.max_concurrent_requests),
        key_gates=KeyGates(options.key_limits, num_keys=len(options.api_keys)),
        canary=watchers.canary,
    )
    whole = WholeServer(
        [state], entrance=state.admission, metrics=state.metrics, tracer=watchers.tracer
    )
    return create_app_of(whole, options, reload=watchers.reload)


def create_app_of(
    whole: WholeServer, options: ServerOptions, *, reload: Reload | None = None
) -> Starlette:
    """As `create_app`, for all engines of a server."""
    for state in whole.states:
        state.begin()
    manifest = whole.states[0].pipeline.manifest
    default_route = platform_route(manifest.model, manifest.default_route)
    app = Starlette(
        routes=[*_routes(whole), _reload_route(options, reload or cannot_reload)],
        middleware=[
            Middleware(IdentifyRequests),
            Middleware(PlatformPaths, default_route=default_route),
            Middleware(
                CountAnswers,
                metrics=whole.metrics,
                access_log=_access_log(options),
                tracer=whole.tracer,
            ),
            Middleware(FinishRequestBody),
            *cors(options.cors_origins),
            Middleware(
                RequireApiKey,
                api_keys=options.api_keys,
                own_keys=frozenset({RELOAD_PATH} if options.admin_keys else ()),
            ),
            Middleware(AnswerErrors),
        ],
        exception_handlers={HTTPException: _refuse},
    )
    # A redirect would make a POST with a stray slash fail further away from its cause.
    app.router.redirect_slashes = False
    return app


def _access_log(options: ServerOptions) -> AccessLog | None:
    if not options.access_log:
        return None
    return AccessLog(replica=options.engine.replica_number if options.num_replicas > 1 else None)


def _routes(whole: WholeServer) -> list[Route]:
    """List the routes, the busy ones first: they are tried in this order."""
    information = InformationEndpoints(whole)
    description = DescriptionEndpoints(whole.states)
    return [
        *(Route(path, each, methods=["POST"]) for path, each in _endpoints(whole).items()),
        Route("/health", information.health),
        Route("/ready", information.ready),
        Route("/metrics", information.metrics),
        Route("/info", information.info),
        Route("/v1/models", information.models),
        Route("/v1/models/{model_id:path}", information.model),
        Route("/openapi.json", description.openapi),
        Route("/api-doc/openapi.json", description.openapi),
        Route("/docs", description.docs),
        Route("/ping", information.health),
        Route("/", information.health),
    ]


def _reload_route(options: ServerOptions, reload: Reload) -> Route:
    return Route(RELOAD_PATH, AdminEndpoints(options, reload).reload, methods=["POST"])


async def cannot_reload() -> NoReturn:
    """Say that this server does not know where its engine came from."""
    raise ReloadError("this server was not started from an engine directory")


def _endpoints(whole: WholeServer) -> dict[str, ASGIApp]:
    """Return what answers `POST` at each path, whichever engine is asked."""
    by_engine = [
        {path: InferenceEndpoint(state, handler) for path, handler in _handlers(state).items()}
        for state in whole.states
    ]
    if len(by_engine) == 1:
        return {**by_engine[0]}
    return {
        path: ChoosingEndpoint(
            {
                state.model_name: (state, endpoints[path])
                for state, endpoints in zip(whole.states, by_engine, strict=True)
            },
            path=path,
            entrance=whole.entrance,
        )
        for path in by_engine[0]
    }


def _handlers(state: ServerState) -> dict[str, InferenceHandler[Any]]:
    """Return what answers `POST` at each path."""
    embeddings = EmbeddingsHandler(state)
    handlers: dict[str, InferenceHandler[Any]] = {
        "/v1/embeddings": embeddings,
        "/embeddings": embeddings,
        "/embed": EmbedHandler(state),
        "/embed_all": EmbedAllHandler(state),
        "/similarity": SimilarityHandler(state),
        "/v2/embed": CohereEmbedHandler(state),
        "/embed_sparse": EmbedSparseHandler(state),
        "/rerank": RerankHandler(state),
        "/v1/rerank": CohereRerankHandler(state, api_version="1"),
        "/v2/rerank": CohereRerankHandler(state, api_version="2"),
        "/predict": PredictHandler(state),
        "/predict_tokens": PredictTokensHandler(state),
        "/tokenize": TokenizeHandler(state),
        "/decode": DecodeHandler(state),
    }
    by_model_type = handlers[root_route(state.pipeline.model)]
    handlers["/"] = handlers["/invocations"] = by_model_type
    handlers["/vertex"] = VertexHandler(state, by_model_type)
    return handlers


async def _refuse(request: Request, error: Exception) -> NoReturn:
    """Explain a path or method that no route takes."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.scope["path"]
    app: Starlette = request.app
    routes = [route for route in app.routes if isinstance(route, Route)]
    if error.status_code == MethodNotAllowedError.http_status:
        here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
        methods = sorted({method for route in here for method in route.methods or ()})
        raise MethodNotAllowedError(
            f"`{path}` does not take {method}",
            hint=f"use {' or '.join(methods)}",
            allow=", ".join(methods),
        )
    known = ", ".join(f"{_shown_method(route)} {route.path_format}" for route in routes)
    raise UnknownRouteError(
        f"Unknown request URL: {method} {path}",
        hint=why_unserved(path) or f"this server has {known}",
    )


def _shown_method(route: Route) -> str:
    return "POST" if route.methods and "POST" in route.methods else "GET"
