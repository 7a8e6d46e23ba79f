"""What each route answers: parse, ask the pipeline, respond."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from beicli import __version__
from beicli.artifact.manifest import Precision
from beicli.engine.cpu import available_cpus
from beicli.errors import BeiError, RequestError, UnhealthyError
from beicli.pipeline.pipeline import EmbeddingResult, InferencePipeline
from beicli.server.errors import ClientLeftError, UnknownModelError, words_for
from beicli.server.exchange import Admission, DisconnectWatch, check_content_type, read_body
from beicli.server.metrics import CONTENT_TYPE, ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.schemas import EmbeddingsRequest, create_response, parse_embeddings_request

# A forward pass that takes longer than this will not come back.
STALL_LIMIT_S = 60.0
# A forward pass this recent proves that the engine works; older, and `/ready` runs one.
READY_MAX_AGE_S = 30.0
# Below the six seconds that the Baseten Performance Client gives a health check.
READY_TIMEOUT_S = 5.0

_DTYPE_NAMES: Mapping[Precision, str] = {"bf16": "bfloat16", "f32": "float32"}


@dataclass(frozen=True, slots=True, eq=False)
class ServerState:
    """What the routes share."""

    pipeline: InferencePipeline
    options: ServerOptions
    metrics: ServerMetrics
    admission: Admission

    @property
    def model_name(self) -> str:
        """What this server calls its model."""
        return self.options.served_model_name or self.pipeline.manifest.name


class InferenceEndpoint:
    """ASGI endpoint around an inference: admission, body, a client that leaves, failures counted.

    handle: makes the response to a complete body; cancelled when the client leaves.
    """

    def __init__(self, state: ServerState, handle: Callable[[bytes], Awaitable[Response]]) -> None:
        self._state = state
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            with self._state.admission:
                check_content_type(headers)
                body = await read_body(
                    headers, receive, max_bytes=self._state.options.max_body_bytes
                )
                async with DisconnectWatch(receive):
                    response = await self._handle(body)
                await response(scope, receive, send)
        except Exception as error:
            self._state.metrics.request_failed(_reason(error))
            raise


def _reason(error: Exception) -> str:
    if isinstance(error, ClientLeftError):
        return "dropped"
    return words_for(error).failure if isinstance(error, BeiError) else "internal"


class EmbeddingsHandler:
    """`/v1/embeddings` and `/embeddings`."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def __call__(self, body: bytes) -> Response:
        started_at = time.perf_counter()
        state = self._state
        request = parse_embeddings_request(
            body, max_client_batch_size=state.options.max_client_batch_size
        )
        state.metrics.embed_started(num_inputs=len(request.inputs), is_batch=request.is_batch)
        embed_started_at = time.perf_counter()
        result = await self._embed(request)
        embed_s = time.perf_counter() - embed_started_at
        content = create_response(
            result.embeddings,
            encoding_format=request.encoding_format,
            model=state.model_name,
            num_tokens=result.num_tokens,
        )
        total_s = time.perf_counter() - started_at
        state.metrics.embed_succeeded(
            result, is_batch=request.is_batch, embed_s=embed_s, total_s=total_s
        )
        headers = _compute_headers(result, request.num_characters, total_s)
        return Response(content, headers=headers, media_type="application/json")

    async def _embed(self, request: EmbeddingsRequest) -> EmbeddingResult:
        try:
            return await self._state.pipeline.embed(request.inputs, dimensions=request.dimensions)
        except RequestError as error:
            # The pipeline does not know what this API calls its inputs.
            error.param = error.param or "input"
            raise


def _compute_headers(
    result: EmbeddingResult, num_characters: int, total_s: float
) -> dict[str, str]:
    """Return the headers that text-embeddings-inference puts on inferences; times in ms."""
    timing = result.timing
    total_ms = str(int(total_s * 1000))
    headers = {
        "x-compute-type": "cpu",
        "x-compute-time": total_ms,
        "x-compute-characters": str(num_characters),
        "x-compute-tokens": str(result.num_tokens),
        "x-total-time": total_ms,
        "x-tokenization-time": str(int(timing.tokenization_s * 1000)),
        "x-queue-time": str(int(timing.queue_s * 1000)),
        "x-inference-time": str(int(timing.inference_s * 1000)),
    }
    if result.num_truncated_inputs:
        headers["x-bei-truncated-inputs"] = str(result.num_truncated_inputs)
    return headers


class InformationEndpoints:
    """The routes a client asks about the server itself."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return _json({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        asked: str = request.path_params["model_id"]
        if asked != self._state.model_name:
            raise UnknownModelError(
                f"The model `{asked}` does not exist",
                hint=f"this server has `{self._state.model_name}`",
                param="model",
            )
        return _json(self._model())

    async def info(self, _: Request) -> Response:
        """`GET /info`."""
        manifest, options = self._state.pipeline.manifest, self._state.options
        return _json(
            {
                "model_id": manifest.source.repo,
                "model_sha": manifest.source.resolved_revision,
                "model_dtype": _DTYPE_NAMES[manifest.precision],
                "served_model_name": self._state.model_name,
                "model_type": {"embedding": {"pooling": manifest.model.pooling}},
                "max_concurrent_requests": options.max_concurrent_requests,
                "max_input_length": manifest.limits.max_input_length,
                "max_batch_tokens": manifest.limits.max_num_tokens,
                "max_batch_requests": manifest.limits.max_batch_size,
                "max_client_batch_size": options.max_client_batch_size,
                "auto_truncate": True,
                "tokenization_workers": available_cpus(),
                "version": __version__,
                "sha": None,
                "docker_label": None,
            }
        )

    async def health(self, _: Request) -> Response:
        """`GET /health`: whether the process is worth keeping; costs no forward pass."""
        if self._state.pipeline.stalled_for_s() >= STALL_LIMIT_S:
            raise UnhealthyError("unhealthy")
        return Response()

    async def ready(self, _: Request) -> Response:
        """`GET /ready`: whether to send requests here."""
        if self._state.admission.draining:
            raise UnhealthyError("the server is shutting down")
        try:
            await self._state.pipeline.check_ready(
                max_age_s=READY_MAX_AGE_S, timeout_s=READY_TIMEOUT_S
            )
        except BeiError as error:
            raise UnhealthyError(error.message, hint=error.hint) from error
        return Response()

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`."""
        return Response(self._state.metrics.render(), headers={"content-type": CONTENT_TYPE})

    def _model(self) -> dict[str, object]:
        created_at = datetime.fromisoformat(self._state.pipeline.manifest.created_at)
        return {
            "id": self._state.model_name,
            "object": "model",
            "created": int(created_at.timestamp()),
            "owned_by": "bei",
        }


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
