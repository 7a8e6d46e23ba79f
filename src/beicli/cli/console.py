"""How the command line talks: data on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from beicli.errors import BeiError, UsageError

# The top-level modules that each extra brings.
_EXTRA_OF_MODULE = {
    "torch": "build",
    "transformers": "build",
    "onnx": "build",
    "onnxruntime": "build",
    "onnxscript": "build",
    "safetensors": "build",
    "aiohttp": "bench",
    "opentelemetry": "otel",
}


def printable(text: str) -> str:
    """Spell out what a terminal would obey or cannot show; lines and their ends stay.

    Names of files and texts of checkpoints are other people's.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in text
    )


def say(message: str) -> None:
    """Print a line of talk."""
    print(printable(message), file=sys.stderr, flush=True)


def print_data(line: str) -> None:
    """Print a line of data."""
    print(printable(line), flush=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON, in ASCII: it is read in whatever encoding."""
    print(json.dumps(value, indent=2), flush=True)


def print_warning(message: str, hint: str | None = None) -> None:
    """Print what is odd but no failure."""
    say(f"warning: {message}")
    if hint:
        say(f"hint: {hint}")


def print_error(error: BeiError) -> None:
    """Print an expected failure: the message, a blank line, the hint."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"\nhint: {error.hint}")


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turn a missing optional package into a sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        extra = _EXTRA_OF_MODULE.get(module)
        if extra is None:
            raise
        raise UsageError(
            f"this command needs the package `{module}`, which is not installed",
            hint=f"install it with `pip install 'beicli[{extra}]'`",
        ) from error


class StepProgress:
    """Shows a build's steps: a spinner on a terminal, one line when a step is done."""

    def __init__(self) -> None:
        self._status: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def started(self, step: str) -> None:
        if sys.stderr.isatty():
            # rich takes 50 ms to import and only a terminal needs it.
            from rich.console import Console
            from rich.status import Status

            self._status = Status(f"{step} …", console=Console(stderr=True))
            self._status.start()

    def finished(self, step: str, detail: str, duration_s: float) -> None:
        self._stop()
        say(f"{step:<11} {detail}   {duration_s:.1f} s")

    def warn(self, message: str) -> None:
        self._stop()
        print_warning(message)

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
