"""What a server tells whoever runs it, what it is told, and when it stops by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from beicli.errors import EngineLostError
from beicli.server.replicas.turns import Turns

LOST_CHECK_INTERVAL_S = 0.5

T = TypeVar("T")


class Lifecycle:
    """What the server tells whoever runs it, and is told: ready, reload, stop, stop now.

    on_ready: called once with the server's URL, when requests are accepted.
    turns: with the other processes that accept from the same socket; None where there are none.
    """

    def __init__(self, *, on_ready: Callable[[str], None], turns: Turns | None = None) -> None:
        self.on_ready = on_ready
        self.turns = turns
        self.stop_requested = asyncio.Event()
        self.hurried = asyncio.Event()
        self.reload_requested = asyncio.Event()

    def stop(self) -> None:
        """Ask for a stop, on the event loop's thread; asked twice, running requests are ended."""
        if self.stop_requested.is_set():
            self.hurried.set()
        self.stop_requested.set()


async def unless_stopped(work: Coroutine[None, None, T], lifecycle: Lifecycle) -> T | None:
    """Return what `work` returns; None if a stop comes first."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(lifecycle.stop_requested.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        stopping.cancel()
        working.cancel()
        # With its cleaning up; its outcome was told, or nobody wants it.
        await asyncio.wait({working})


class Computing(Protocol):
    """What has engines: one of them, or a whole server."""

    @property
    def lost(self) -> EngineLostError | None: ...
    def stalled_for_s(self) -> float: ...


@asynccontextmanager
async def ends_if_lost(computing: Computing, lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Stop the server that runs in the body once its engine can compute nothing more.

    Raises EngineLostError after the body if that is why it ended: whoever runs the process may
    start it anew.
    """
    async with stops_once(
        lambda: computing.lost is not None, lifecycle, interval_s=LOST_CHECK_INTERVAL_S
    ):
        yield
    raise_if_lost(computing)


@asynccontextmanager
async def stops_once(
    is_over: Callable[[], bool], lifecycle: Lifecycle, *, interval_s: float
) -> AsyncIterator[None]:
    """Stop the server that runs in the body, at once, when its engine is good for nothing more."""

    async def watch() -> None:
        while not is_over():  # noqa: ASYNC110 - it comes about in a thread, and sets no event
            await asyncio.sleep(interval_s)
        lifecycle.stop()
        # Nothing comes of waiting: with an answer of 503 now, clients may ask another replica.
        lifecycle.stop()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def raise_if_lost(computing: Computing) -> None:
    """Raise EngineLostError if an engine can compute nothing more."""
    if (lost := computing.lost) is not None:
        raise EngineLostError(lost.message, hint=lost.hint)
