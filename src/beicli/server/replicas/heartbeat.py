"""Ends a replica whose engine hangs or is lost, so that another takes its place.

A single process only says so at `/health`, for whoever runs it to decide. With replicas that is the
supervisor, which starts anew what ends.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from beicli.errors import EngineError
from beicli.server.information import STALL_LIMIT_S
from beicli.server.lifecycle import Computing, Lifecycle, raise_if_lost, stops_once

CHECK_INTERVAL_S = 1.0


@asynccontextmanager
async def ends_if_stalled(computing: Computing, lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Stop the server that runs in the body once its engine hangs.

    Raises EngineError after the body if that is why it ended.
    """
    async with stops_once(lambda: _is_stalled(computing), lifecycle, interval_s=CHECK_INTERVAL_S):
        yield
    raise_if_lost(computing)
    if _is_stalled(computing):
        raise EngineError(
            f"the engine hangs: a forward pass took over {STALL_LIMIT_S:g} s, or its thread died",
            hint="if it happens again, serve with `--num-slots 1`, or rebuild with `bei build`",
        )


def _is_stalled(computing: Computing) -> bool:
    return computing.stalled_for_s() >= STALL_LIMIT_S
