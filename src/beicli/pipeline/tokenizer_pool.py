"""Threads for tokenising, so that long requests do not hold up the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Up to here tokenising takes less time (0.1 ms) than handing it to a thread and back (0.2 ms).
MAX_CHARACTERS_INLINE = 1000

T = TypeVar("T")


class TokenizerPool:
    """Runs work on texts, at once if it is short."""

    def __init__(self, *, num_threads: int) -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="bei-tokenizer")

    async def run(self, work: Callable[[], T], *, num_characters: int) -> T:
        """Return what `work` does, off the event loop unless it is over at once."""
        if num_characters <= MAX_CHARACTERS_INLINE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
