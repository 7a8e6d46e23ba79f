"""Closes a connection that is idle for too long, without a task for every wait between requests.

Hypercorn starts two tasks after each answer and cancels them at the next request, which is about a
tenth of the CPU time of a lone short request. A timer of the event loop does the same.
"""

import asyncio
from collections.abc import Awaitable, Callable

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import AsyncioSingleTask, WorkerContext


class IdleContext(WorkerContext):
    """Hypercorn's context of a server, with the connections that are idle now."""

    def __init__(self) -> None:
        super().__init__(max_requests=None)
        self.idle: set[IdleTimer] = set()

    async def terminate_idle(self) -> None:
        """Close what is idle, and from now on whatever becomes idle."""
        await self.terminated.set()
        for timer in list(self.idle):
            timer.expire()


class IdleTimer(AsyncioSingleTask):
    """In the place of hypercorn's task that waits for one connection.

    close: ends the connection.
    """

    def __init__(
        self, context: IdleContext, close: Callable[[], Awaitable[None]], *, timeout_s: float
    ) -> None:
        super().__init__()
        self._context = context
        self._close = close
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self._is_hastened = False
        self._is_busy = False

    @property
    def is_waiting(self) -> bool:
        return self._timer is not None

    def end(self) -> None:
        """Never start again: the client has left, and the connection ends with what still runs."""
        self._is_over = True
        self._cancel()

    async def restart(self, task_group: TaskGroup, _action: object) -> None:  # type: ignore[override]
        """Wait for the next request from now on; hypercorn gives what it would run for that."""
        self._cancel()
        if self._is_over:
            return
        self._is_busy = False
        self._task_group = task_group
        self._context.idle.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self.expire)
        if self._context.terminated.is_set():
            self.expire()

    async def stop(self) -> None:
        """Wait no more: there is a request, or the connection has ended."""
        self._is_busy = True
        self._cancel()

    def expire(self) -> None:
        """Close the connection, unless a request begins before that comes about."""
        self._cancel()
        self._task_group.spawn(self._close_unless_busy)

    async def _close_unless_busy(self) -> None:
        # Else its client would lose an answer; the wait begins again after that.
        if not self._is_busy:
            await self._close()

    def hasten(self, give_up: Callable[[], Awaitable[None]], *, timeout_s: float) -> None:
        """Run `give_up` after so long unless the wait is over; said again, nothing changes."""
        if self._timer is None or self._is_hastened:
            return
        self._is_hastened = True
        self._timer.cancel()

        async def give_up_unless_busy() -> None:
            if not self._is_busy:
                await give_up()

        def expire() -> None:
            self._cancel()
            self._task_group.spawn(give_up_unless_busy)

        self._timer = asyncio.get_running_loop().call_later(timeout_s, expire)

    def _cancel(self) -> None:
        self._is_hastened = False
        self._context.idle.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
