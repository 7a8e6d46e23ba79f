"""An engine directory served for the time of a benchmark, by a `bei serve` of our own."""

import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from beicli.bench.response import printable_line
from beicli.errors import BenchError

_URL = re.compile(r" at (https?://\S+)")
_MAX_LINES_KEPT = 20
# `bei serve` itself lets running requests end first; this is for one that hangs.
_STOP_TIMEOUT_S = 40.0


@contextmanager
def serving(engine: Path) -> Iterator[str]:
    """Serve `engine` on a free port, give the URL, and stop the server however the block is left.

    The server reads the environment as `bei serve` does. Raises `BenchError` with what it said
    when it does not start.
    """
    command = [sys.executable, "-m", "beicli", "serve", str(engine), "--port", "0"]
    with (
        _sigterm_as_ctrl_c(),
        # In a session of its own: Ctrl-C ends the measurement first, and then the server.
        subprocess.Popen(  # noqa: S603 - our own command
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process,
    ):
        listener = None
        try:
            assert process.stderr is not None
            url = _wait_for_url(process.stderr, engine)
            # From here on somebody has to read, or the server waits for ever to say something.
            listener = threading.Thread(target=deque, args=(process.stderr, 0), daemon=True)
            listener.start()
            yield url
        finally:
            _stop(process)
            if listener is not None:
                listener.join(_STOP_TIMEOUT_S)


def _wait_for_url(stderr: IO[str], engine: Path) -> str:
    said: deque[str] = deque(maxlen=_MAX_LINES_KEPT)
    for line in stderr:
        if found := _URL.search(line):
            return found[1]
        said.append(line)
    lines = [line.strip() for line in said if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    reason = (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
    raise BenchError(
        f"`bei serve {engine}` did not start: {printable_line(reason)}",
        hint="run that command by itself to see more",
    )


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end us as Ctrl-C does, so that a server we started does not outlive us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
