"""What every connection reaches: the application of the engine that serves now, or of none yet."""

import asyncio
import gc
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from starlette.types import ASGIApp, Receive, Scope, Send

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest
from beicli.errors import EngineLostError, UsageError
from beicli.pipeline.apart import run_apart
from beicli.pipeline.pipeline import InferencePipeline
from beicli.scheduler.admission import QueueState
from beicli.server.admin import Reload
from beicli.server.app import cannot_reload, create_app_of
from beicli.server.canary import Canary, open_canary
from beicli.server.cors import cors
from beicli.server.errors import AnswerErrors, LoadingError, ReloadError
from beicli.server.exchange import BODY_TIMEOUT_S, Admission, FinishRequestBody
from beicli.server.inference import ServerState, WholeServer
from beicli.server.key_limits import KeyGates
from beicli.server.loading import CLOSE_TIMEOUT_S, close_pipeline, load_pipeline
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.paths import PlatformPaths
from beicli.server.request_ids import IdentifyRequests
from beicli.server.traffic import RequestTracer
from beicli.server.watchers import close_tracer, make_tracer

logger = logging.getLogger(__name__)

# Where a request may wait for its engine for as long as it likes, a reload waits so long for it.
_LONGEST_WAIT_S = 600.0


class Generation:
    """An application, the engines that it asks, and the requests inside it.

    canaries: those that watch the engines, until they are forgotten.
    """

    def __init__(
        self,
        app: ASGIApp,
        pipelines: Sequence[InferencePipeline],
        canaries: Sequence[Canary] = (),
    ) -> None:
        self.pipelines = tuple(pipelines)
        self._app = app
        self._watching = [asyncio.create_task(canary.run()) for canary in canaries]
        self._num_inside = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._num_inside += 1
        self._is_empty.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._is_empty.set()

    def unwatch(self) -> None:
        """End the canaries."""
        for task in self._watching:
            task.cancel()

    def forget(self) -> None:
        """Let go of the engines, of which nobody asks any more."""
        self.pipelines = ()
        self._app = _gone

    async def wait_empty(self) -> None:
        """Wait until nobody is inside."""
        await self._is_empty.wait()


class Front:
    """ASGI application around those of each generation; refuses while there is none.

    What outlasts a generation is here: who is inside the server, and what it has counted.
    reload: what `POST /admin/reload` does; may be set before the first generation.
    """

    reload: Reload
    _tracer: RequestTracer | None = None

    def __init__(
        self, options: ServerOptions, metrics: ServerMetrics, *, num_engines: int = 1
    ) -> None:
        """metrics: with those of each engine, if there are several."""
        self.reload = cannot_reload
        self.is_serving = asyncio.Event()
        self.options = options
        self.metrics = metrics
        # Of the server: what a key may ask does not begin anew with another engine.
        self._key_gates = KeyGates(options.key_limits, num_keys=len(options.api_keys))
        limit = options.max_concurrent_requests
        self._admissions = [Admission(limit) for _ in range(num_engines)]
        # With several engines a request is inside before it is known whom it asks.
        self.admission = self._admissions[0] if num_engines == 1 else Admission(limit * num_engines)
        self._now: Generation | None = None
        self._loading = _loading_app(options)
        self._retiring: dict[asyncio.Task[None], Generation] = {}
        # On the event loop's clock: by then the last of them is closed, if nothing hangs.
        self._retires_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._now or self._loading)(scope, receive, send)

    def put(self, pipelines: Sequence[InferencePipeline]) -> None:
        """Let these answer from now on; those before are closed when nobody inside needs them."""
        names = model_names(self.options, [pipeline.manifest for pipeline in pipelines])
        if self._now is None:
            # Its resource holds for the process, so another name later is not taken over.
            self._tracer = make_tracer(self.options, model_name=", ".join(names))
        states = [
            ServerState(
                pipeline,
                replace(self.options, served_model_name=name),
                metrics,
                admission,
                self._key_gates,
                open_canary(pipeline, self.options),
            )
            for name, pipeline, metrics, admission in zip(
                names, pipelines, self.metrics.engines, self._admissions, strict=True
            )
        ]
        whole = WholeServer(
            states,
            entrance=self.admission,
            metrics=self.metrics,
            tracer=self._tracer,
            retiring=lambda: self.retiring,
        )
        app = create_app_of(whole, self.options, reload=self.reload)
        if len(states) > 1:
            self.admission.queue_state = lambda: _sum_states(
                [pipeline.queue_state() for pipeline in pipelines]
            )
        canaries = [state.canary for state in states if state.canary is not None]
        before, self._now = self._now, Generation(app, pipelines, canaries)
        self.is_serving.set()
        if before is not None:
            self._begin_to_retire(before)

    async def load(
        self, artifacts: Sequence[EngineArtifact], *, checks_answers: bool
    ) -> list[InferencePipeline]:
        """Load engines and warm them up; all are closed if one fails.

        checks_answers: whether each has to give its golden answers.
        """
        # Memory for results is the server's, slots and threads are each engine's.
        limits = self.options.pipeline
        limits = replace(limits, result_cache_bytes=limits.result_cache_bytes // len(artifacts))
        options = replace(self.options, pipeline=limits)
        pipelines = []
        try:
            for artifact, metrics in zip(artifacts, self.metrics.engines, strict=True):
                pipelines.append(
                    await load_pipeline(artifact, options, metrics, checks_answers=checks_answers)
                )
        except BaseException:
            await asyncio.gather(*map(close_pipeline, pipelines))
            raise
        return pipelines

    async def wait_retired(self) -> None:
        """Wait until only those are in memory that answer now.

        Raises ReloadError if one of those before does not end.
        """
        if not self._retiring:
            return
        left_s = self._retires_until - asyncio.get_running_loop().time()
        _, hanging = await asyncio.wait(self._retiring, timeout=max(left_s, 0.0) + CLOSE_TIMEOUT_S)
        if hanging:
            raise ReloadError(
                "an engine of before the last reload does not end, so a third has no place",
                hint="one of its forward passes may hang: start the server anew",
            )

    async def close(self) -> None:
        """Close all engines, once nobody is inside, and end what watches them."""
        await self.unwatch()
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=CLOSE_TIMEOUT_S)
        await asyncio.gather(*map(close_pipeline, self.pipelines))

    async def unwatch(self) -> None:
        """End the canaries, and send what is left of traces."""
        if self._now is not None:
            self._now.unwatch()
        if self._tracer is not None:
            await close_tracer(self._tracer)

    def _begin_to_retire(self, before: Generation) -> None:
        before.unwatch()
        retiring = asyncio.create_task(self._retire(before))
        self._retiring[retiring] = before
        retiring.add_done_callback(self._retiring.pop)
        self._retires_until = asyncio.get_running_loop().time() + self._longest_inside_s

    async def _retire(self, before: Generation) -> None:
        # By then most bodies have arrived and been answered, and mostly clients are left that do
        # not read their answer. Whoever asks the engine after all is refused.
        with suppress(TimeoutError):
            await asyncio.wait_for(before.wait_empty(), self._longest_inside_s)
        for pipeline in before.pipelines:
            try:
                await run_apart(pipeline.close)
            except Exception:
                logger.exception("an engine of before the reload was not closed well")
        before.forget()
        # An application and its handlers refer to each other, and hold a tokenizer of megabytes.
        gc.collect()

    def drain(self) -> None:
        """Report not ready from now on; those inside go on."""
        self.admission.drain()
        if self._now is not None:
            self._now.unwatch()

    @property
    def _longest_inside_s(self) -> float:
        """For a body to arrive, its texts to wait, and the answer to be computed and read."""
        limits = self.options.pipeline.admission
        wait_s = max(limits.max_wait_s, limits.max_interactive_wait_s or 0.0)
        return BODY_TIMEOUT_S + min(wait_s, _LONGEST_WAIT_S) + self.options.drain_timeout_s

    @property
    def retiring(self) -> list[InferencePipeline]:
        """Those of before a reload that are not closed yet."""
        return [each for before in self._retiring.values() for each in before.pipelines]

    @property
    def pipelines(self) -> tuple[InferencePipeline, ...]:
        """Those that answer now; none while the first engine loads."""
        return () if self._now is None else self._now.pipelines

    @property
    def lost(self) -> EngineLostError | None:
        """Why an engine can compute nothing more in this process; None while all can."""
        every = (*self.pipelines, *self.retiring)
        return next((each.lost for each in every if each.lost is not None), None)

    def stalled_for_s(self) -> float:
        """How long the slowest running forward pass has been at it, whoever still waits for it."""
        every = (*self.pipelines, *self.retiring)
        return max((each.stalled_for_s() for each in every), default=0.0)


async def _gone(_: Scope, __: Receive, ___: Send) -> None:
    raise AssertionError("a generation that was closed is asked no more")


def model_names(options: ServerOptions, manifests: Sequence[Manifest]) -> list[str]:
    """Return what answers call each model; raises UsageError if two have the same name."""
    given = options.model_names or (options.served_model_name,) * len(manifests)
    names = [name or manifest.name for name, manifest in zip(given, manifests, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"{names.count(name)} engines are called `{name}`",
                hint="give each a name of its own with `--name`, in their order",
            )
    return names


def _sum_states(states: Sequence[QueueState]) -> QueueState:
    """Return what waits for any of several engines, of which nobody knows yet who is asked."""
    return QueueState(
        num_sequences=sum(state.num_sequences for state in states),
        num_tokens=sum(state.num_tokens for state in states),
        priority=states[0].priority,
        wait_s=max((state.wait_s for state in states if state.wait_s is not None), default=None),
    )


def _loading_app(options: ServerOptions) -> ASGIApp:
    """Return what answers while the first engine loads: every route alike, health included."""
    app: ASGIApp = AnswerErrors(_refuse)
    for middleware in cors(options.cors_origins):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    app = FinishRequestBody(app)
    # Where the bare address leads is not known yet, and each of its routes refuses alike.
    app = PlatformPaths(app, default_route="/predict")
    return IdentifyRequests(app)


async def _refuse(scope: Scope, _: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    raise LoadingError("the server is loading its engine", hint="ask again in a few seconds")
