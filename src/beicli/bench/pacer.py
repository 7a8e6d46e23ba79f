"""Tells an event loop when a request is due, to a tenth of a millisecond.

The loop's own timers are rounded up to whole milliseconds, which would count as the server's
latency; a thread that sleeps is more exact and costs next to nothing.
"""

import asyncio
import threading
import time
from collections.abc import Iterator


class Pacer:
    """Hands out the moments of an open loop as they come, in order.

    `next_due` may be awaited by many at once. What nobody asks for in time waits in line.
    """

    def __init__(self, moments_s: Iterator[float], *, end_s: float) -> None:
        """Use the moments, ascending on the clock of `time.perf_counter`, that are before end_s."""
        self._moments_s = moments_s
        self._end_s = end_s
        self._due: asyncio.Queue[float | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._pace, daemon=True)
        self._thread.start()

    async def next_due(self) -> float | None:
        """Wait for the next moment; None after the last one, as often as asked."""
        due_s = await self._due.get()
        if due_s is None:
            self._due.put_nowait(None)
        return due_s

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopped.set()
        self._thread.join()

    def _pace(self) -> None:
        for due_s in self._moments_s:
            if due_s >= self._end_s or self._stopped.wait(max(due_s - time.perf_counter(), 0)):
                break
            self._loop.call_soon_threadsafe(self._due.put_nowait, due_s)
        self._loop.call_soon_threadsafe(self._due.put_nowait, None)
