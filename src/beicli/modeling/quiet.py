"""Keeps torch and transformers from talking to the user's terminal, and shortens what they say."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, prints and deprecation notes off the user's terminal."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def first_line(error: BaseException) -> str:
    """Return what a library's error says, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # A line that ends in a colon says nothing without the next.
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
