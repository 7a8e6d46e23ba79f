"""What watches a server beside its requests: the canary, and who sends traces to a collector."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.canary import Canary, open_canary
from beicli.server.options import ServerOptions
from beicli.server.traffic import RequestTracer

# A collector that does not answer holds a stop up for so long.
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Watchers:
    """Each is None where it is not wanted."""

    canary: Canary | None = None
    tracer: RequestTracer | None = None


@asynccontextmanager
async def open_watchers(
    pipeline: InferencePipeline, options: ServerOptions
) -> AsyncIterator[Watchers]:
    """Make what the options ask for; after the body, send what is left."""
    watchers = Watchers(open_canary(pipeline, options), _open_tracer(pipeline, options))
    try:
        yield watchers
    finally:
        if watchers.tracer is not None:
            # A daemon thread, unlike an executor's, does not keep the process from ending.
            thread = threading.Thread(
                target=watchers.tracer.close, name="bei-close-traces", daemon=True
            )
            thread.start()
            await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)


def _open_tracer(pipeline: InferencePipeline, options: ServerOptions) -> RequestTracer | None:
    if options.otlp_endpoint is None:
        return None
    # An extra, and nobody else should wait for its import.
    from beicli.server.tracing import open_tracer  # noqa: PLC0415

    return open_tracer(options, model_name=options.served_model_name or pipeline.manifest.name)
