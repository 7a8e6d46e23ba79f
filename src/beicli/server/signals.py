"""What signals do to a server, from the first moment on.

Process 1 of a container gets no signal that it has no handler for, so the system's own handling of
SIGTERM is not enough.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
RELOAD_SIGNAL = signal.SIGHUP


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Let a stop signal end the process, with exit code 0, until something else handles it.

    There is nothing to reload yet, so that signal does nothing.
    """
    before = {number: signal.signal(number, _end) for number in STOP_SIGNALS}
    before[RELOAD_SIGNAL] = signal.signal(RELOAD_SIGNAL, _go_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(_: int, __: FrameType | None) -> None:
    # There is nothing to finish yet, and no cleaning up that could hold it up.
    os._exit(0)


def _go_on(_: int, __: FrameType | None) -> None:
    return


class Terminal:
    """The terminal that a process was started from, if any: it hangs up when it is closed."""

    def __init__(self) -> None:
        self._was_there = _has_terminal()

    @property
    def is_gone(self) -> bool:
        """Whether the signal to reload means that the terminal was closed."""
        return self._was_there and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
