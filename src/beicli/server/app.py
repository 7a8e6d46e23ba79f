"""The routes, and what happens where there is none."""

from typing import Any, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Match, Route

from beicli.model.routes import platform_route, root_route
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.access_log import AccessLog
from beicli.server.authentication import RequireApiKey
from beicli.server.cohere_embed import CohereEmbedHandler
from beicli.server.cohere_rerank import CohereRerankHandler
from beicli.server.cors import cors
from beicli.server.entities import PredictTokensHandler
from beicli.server.errors import AnswerErrors, MethodNotAllowedError, UnknownRouteError
from beicli.server.exchange import Admission, FinishRequestBody
from beicli.server.inference import InferenceEndpoint, InferenceHandler, ServerState
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
    watchers: what watches it, and is run elsewhere; None if nothing does.
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
    state.admission.queue_state = pipeline.queue_state
    state.metrics.watch_queue(lambda: pipeline.num_waiting, pipeline.estimated_wait_s)
    state.metrics.watch_slots(pipeline.busy_s)
    state.metrics.watch_requests(lambda: state.admission.num_inside)
    if watchers.canary is not None:
        state.metrics.watch_canary(watchers.canary.figures)
    if pipeline.cache_statistics() is not None:
        state.metrics.watch_cache(pipeline.cache_statistics)
    state.metrics.describe(
        pipeline.manifest, served_model_name=state.model_name, num_slots=pipeline.num_slots
    )
    manifest = pipeline.manifest
    default_route = platform_route(manifest.model, manifest.default_route)
    app = Starlette(
        routes=_routes(state),
        middleware=[
            Middleware(IdentifyRequests),
            Middleware(PlatformPaths, default_route=default_route),
            Middleware(
                CountAnswers,
                metrics=state.metrics,
                access_log=_access_log(options),
                tracer=watchers.tracer,
            ),
            Middleware(FinishRequestBody),
            *cors(options.cors_origins),
            Middleware(RequireApiKey, api_keys=options.api_keys),
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


def _routes(state: ServerState) -> list[Route]:
    """List the routes, the busy ones first: they are tried in this order."""
    handlers = _handlers(state)
    by_model_type = handlers[root_route(state.pipeline.model)]
    handlers["/"] = handlers["/invocations"] = by_model_type
    handlers["/vertex"] = VertexHandler(state, by_model_type)
    information = InformationEndpoints(state)
    description = DescriptionEndpoints(state)
    return [
        *(
            Route(path, InferenceEndpoint(state, handler), methods=["POST"])
            for path, handler in handlers.items()
        ),
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


def _handlers(state: ServerState) -> dict[str, InferenceHandler[Any]]:
    """Return what answers `POST` at each path."""
    embeddings = EmbeddingsHandler(state)
    return {
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
