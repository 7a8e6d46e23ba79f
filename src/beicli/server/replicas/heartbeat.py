"""Ends a replica whose engine hangs or is lost, so that another takes its place.

A single process only says so at `/health`, for whoever runs it to decide. With replicas that is the
supervisor, which starts anew what ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from beicli.errors import EngineError, EngineLostError
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.information import STALL_LIMIT_S
from beicli.server.run import Lifecycle

CHECK_INTERVAL_S = 1.0


@asynccontextmanager
async def ends_if_stalled(pipeline: InferencePipeline, lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Stop the server that runs in the body once its engine hangs.

    Raises EngineError after the body if that is why it ended.
    """
    watching = asyncio.create_task(_stop_once_stalled(pipeline, lifecycle))
    try:
        yield
    finally:
        watching.cancel()
    if pipeline.lost is not None:
        raise EngineLostError(pipeline.lost.message, hint=pipeline.lost.hint)
    if _is_stalled(pipeline):
        raise EngineError(
            f"the engine hangs: a forward pass took over {STALL_LIMIT_S:g} s, or its thread died",
            hint="if it happens again, serve with `--num-slots 1`, or rebuild with `bei build`",
        )


async def _stop_once_stalled(pipeline: InferencePipeline, lifecycle: Lifecycle) -> None:
    while not _is_stalled(pipeline):  # noqa: ASYNC110 - a pass that hangs sets no event
        await asyncio.sleep(CHECK_INTERVAL_S)
    lifecycle.stop()
    # Nothing comes of waiting: with an answer of 503 now, clients may ask another replica.
    lifecycle.stop()


def _is_stalled(pipeline: InferencePipeline) -> bool:
    return pipeline.stalled_for_s() >= STALL_LIMIT_S
