"""What the server says about itself and its model."""

import asyncio
from collections.abc import Mapping
from datetime import datetime

import orjson
from starlette.requests import Request
from starlette.responses import Response

from beicli import __version__
from beicli.artifact.manifest import Precision
from beicli.errors import BeiError, UnhealthyError
from beicli.machine import available_cpus
from beicli.model.routes import PLATFORM_MODEL_NAME
from beicli.model.spec import ModelSpec, Task
from beicli.server.choosing import unknown_model
from beicli.server.inference import ServerState, WholeServer
from beicli.server.metrics import CONTENT_TYPE

# A forward pass that takes longer than this will not come back.
STALL_LIMIT_S = 60.0
# A forward pass this recent proves that the engine works; older, and `/ready` runs one.
READY_MAX_AGE_S = 30.0
# Below the six seconds that the Baseten Performance Client gives a health check.
READY_TIMEOUT_S = 5.0

_DTYPE_NAMES: Mapping[Precision, str] = {
    "bf16": "bfloat16",
    "f32": "float32",
    "f16": "float16",
    "int8": "int8",
    "fp8": "float8_e4m3fn",
    "fp4": "nvfp4",
}

_CLASSIFIER_NAMES: Mapping[Task, str] = {
    Task.CLASSIFICATION: "classifier",
    Task.RERANKING: "reranker",
    Task.TOKEN_CLASSIFICATION: "token_classifier",
}


class InformationEndpoints:
    """The routes a client asks about the server itself."""

    def __init__(self, whole: WholeServer) -> None:
        self._whole = whole
        self._states = {state.model_name: state for state in whole.states}
        self._state = whole.states[0]

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return _json({"object": "list", "data": [_model(each) for each in self._whole.states]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`; a Truss platform asks for `model` to learn whether it is ready."""
        asked: str = request.path_params["model_id"]
        if asked == PLATFORM_MODEL_NAME:
            await self.ready(request)
        elif asked not in self._states:
            raise unknown_model(asked, self._states)
        return _json(_model(self._states.get(asked, self._state)))

    async def info(self, _: Request) -> Response:
        """`GET /info`."""
        manifest, options = self._state.pipeline.manifest, self._state.options
        # Where a folder lay on the machine that built the engine concerns no client.
        is_local = manifest.source.kind == "LOCAL"
        has_several = len(self._states) > 1
        return _json(
            {
                "model_id": manifest.name if is_local else manifest.source.repo,
                "model_sha": manifest.source.resolved_revision,
                "model_dtype": _DTYPE_NAMES[manifest.precision],
                "served_model_name": self._state.model_name,
                **({"models": list(self._states)} if has_several else {}),
                "model_type": describe_model_type(manifest.model),
                "prompts": list(manifest.model.prompts),
                "max_concurrent_requests": options.max_concurrent_requests * options.num_replicas,
                "max_input_length": manifest.limits.max_input_length,
                "max_batch_tokens": manifest.limits.max_num_tokens,
                "max_batch_requests": manifest.limits.max_batch_size,
                "max_client_batch_size": options.max_client_batch_size,
                "auto_truncate": options.on_too_long == "truncate",
                "tokenization_workers": available_cpus(),
                "replicas": options.num_replicas,
                "version": __version__,
                "sha": None,
                "docker_label": None,
            }
        )

    async def health(self, _: Request) -> Response:
        """`GET /health`: whether the process is worth keeping; costs no forward pass."""
        pipelines = [*(state.pipeline for state in self._whole.states), *self._whole.retiring()]
        if any(each.stalled_for_s() >= STALL_LIMIT_S for each in pipelines):
            raise UnhealthyError("unhealthy")
        return Response()

    async def ready(self, _: Request) -> Response:
        """`GET /ready`: whether to send requests here."""
        if self._whole.entrance.draining:
            raise UnhealthyError("the server is shutting down")
        for state in self._whole.states:
            if state.canary is not None and state.canary.problem is not None:
                raise UnhealthyError(
                    f"the engine's numbers are wrong: {state.canary.problem}",
                    hint="`bei validate` tells more of the engine directory on this machine",
                )
        try:
            # All at once, so that the answer comes in time however many there are.
            await asyncio.gather(
                *(
                    each.pipeline.check_ready(max_age_s=READY_MAX_AGE_S, timeout_s=READY_TIMEOUT_S)
                    for each in self._whole.states
                )
            )
        except BeiError as error:
            raise UnhealthyError(error.message, hint=error.hint) from error
        return Response()

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`."""
        page = self._whole.metrics.render_whole_server()
        return Response(page, headers={"content-type": CONTENT_TYPE})


def _model(state: ServerState) -> dict[str, object]:
    created_at = datetime.fromisoformat(state.pipeline.manifest.created_at)
    return {
        "id": state.model_name,
        "object": "model",
        "created": int(created_at.timestamp()),
        "owned_by": "bei",
    }


def describe_model_type(model: ModelSpec) -> dict[str, object]:
    """Return `model_type` of `/info`; `token_classifier` is the one that TEI does not have."""
    if model.task in {Task.EMBEDDING, Task.SPARSE_EMBEDDING}:
        return {"embedding": {"pooling": "+".join(model.pooling)}}
    labels = {
        "id2label": {str(index): label for index, label in enumerate(model.labels)},
        "label2id": {label: index for index, label in enumerate(model.labels)},
    }
    return {_CLASSIFIER_NAMES[model.task]: labels}


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
