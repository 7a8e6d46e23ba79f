"""Ends a replica whose engine hangs or is lost, so that another takes its place.

A single process only says so at `/health`, for whoever runs it to decide. With replicas that is the
supervisor, which starts anew what ends.
"""

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from beicli.errors import EngineError
from beicli.server.information import STALL_LIMIT_S
from beicli.server.lifecycle import Computing, Lifecycle, raise_if_lost, stops_once
from beicli.server.replicas.beats import PAUSED_AFTER_S

CHECK_INTERVAL_S = 1.0


class Heartbeat:
    """Whether an engine hangs, to be asked all the time.

    Whoever asks after a long while stood still, and the engine with it: a forward pass of then has
    its time anew.
    """

    def __init__(self, computing: Computing) -> None:
        self._computing = computing
        self._asked_at = time.monotonic()
        self._resumed_at = -math.inf

    def is_over(self) -> bool:
        now = time.monotonic()
        if now - self._asked_at >= PAUSED_AFTER_S:
            self._resumed_at = now
        self._asked_at = now
        stalled_for_s = self._computing.stalled_for_s()
        # That of a slot that died is infinite, and no pause explains it.
        return stalled_for_s >= STALL_LIMIT_S and (
            math.isinf(stalled_for_s) or now - self._resumed_at >= STALL_LIMIT_S
        )


@asynccontextmanager
async def ends_if_stalled(computing: Computing, lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Stop the server that runs in the body once its engine hangs.

    Raises EngineError after the body if that is why it ended.
    """
    heartbeat = Heartbeat(computing)
    async with stops_once(heartbeat.is_over, lifecycle, interval_s=CHECK_INTERVAL_S):
        yield
    raise_if_lost(computing)
    if heartbeat.is_over():
        raise EngineError(
            f"the engine hangs: a forward pass took over {STALL_LIMIT_S:g} s, or its thread died",
            hint="if it happens again, serve with `--num-slots 1`, or rebuild with `bei build`",
        )
