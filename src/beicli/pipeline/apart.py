"""Work that takes long, such as loading an engine, in a thread of its own.

The event loop goes on meanwhile, and so does the process's end: neither waits for the thread.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_NAME = "bei-apart"


async def run_apart(work: Callable[[], T]) -> T:
    """Return what `work` returns; whoever stops waiting leaves it to its thread."""
    done: Future[T] = Future()
    # So that it cannot be cancelled, and takes the result whether or not somebody waits.
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
            done.set_exception(error)

    # An executor's thread would keep the process from ending.
    threading.Thread(target=run, name=_NAME, daemon=True).start()
    return await asyncio.wrap_future(done)


async def run_for(work: Callable[[], None], *, name: str, timeout_s: float) -> bool:
    """Run `work` for at most so long, then leave it to its thread; return whether it has ended."""
    # A daemon thread, unlike an executor's, does not keep the process from ending.
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, timeout_s)
    return not thread.is_alive()


def is_working_apart() -> bool:
    """Whether some such work is not done yet."""
    return any(thread.name == _NAME for thread in threading.enumerate())
