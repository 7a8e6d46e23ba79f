"""TensorRT, in either of its flavours: the only place that imports it.

The flavours have one API, so everything else is given the module as `trt`.
"""

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from beicli.artifact.gpu import Flavor
from beicli.errors import GpuUnavailableError, ToolMissingError
from beicli.tensorrt.driver import CUDA, CUDA_DRIVER, read_driver

__all__ = [
    "Flavor",
    "Messages",
    "collection_paused",
    "create_builder",
    "create_runtime",
    "load_trt",
    "make_logger",
]

_MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# Major and minor version, first and last. RTX changes its API and its plans with every minor one.
_VERSIONS: dict[Flavor, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "tensorrt": ((11,), (11,)),
    "tensorrt-rtx": ((1, 7), (1, 7)),
}
# Said as an error on every call on a machine without a GPU, where it is none.
_NO_ERRORS = ("catchCudaError", "cudaError 35")


def load_trt(flavor: Flavor) -> ModuleType:
    """Import TensorRT; raises ToolMissingError if it is not there, or not the version wanted."""
    hint = f"install it with `pip install 'beicli[{flavor}]'`"
    try:
        trt = importlib.import_module(_MODULES[flavor])
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == _MODULES[flavor]
        what = "is not installed" if missing else f"cannot be imported: {error}"
        raise ToolMissingError(f"the package `{flavor}` {what}", hint=hint) from error
    first, last = _VERSIONS[flavor]
    version = tuple(int(part) for part in trt.__version__.split(".")[: len(first)])
    if not first <= version <= last:
        raise ToolMissingError(
            f"`{flavor}` {trt.__version__} is installed; {'.'.join(map(str, first))} is wanted",
            hint=hint,
        )
    return trt


@dataclass(slots=True)
class Messages:
    """What TensorRT said since it was last asked for; owned by whoever made the logger."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def take_errors(self) -> str:
        """Return the errors in one line, and forget them."""
        text = "; ".join(dict.fromkeys(" ".join(each.split()) for each in self.errors))
        self.errors.clear()
        return text or "it gives no reason"


def make_logger(trt: ModuleType, messages: Messages) -> Any:
    """Return an ILogger that keeps errors and warnings in `messages`; keep it while in use."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if any(part in message for part in _NO_ERRORS):
                return
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                messages.errors.append(message)
            elif int(severity) == int(trt.ILogger.Severity.WARNING):
                messages.warnings.append(message)

    return Logger()


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keep Python from collecting garbage while TensorRT is at work.

    It holds a lock of its own while it calls a logger. If Python collected an object of TensorRT
    just then, the object would wait for that lock in its destructor, and for ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def create_builder(trt: ModuleType, flavor: Flavor, logger: Any) -> Any:
    """Return an IBuilder; raises GpuUnavailableError where this flavour needs a GPU for it."""
    if flavor == "tensorrt":
        _check_driver()
    return trt.Builder(logger)


def create_runtime(trt: ModuleType, logger: Any) -> Any:
    """Return an IRuntime; raises GpuUnavailableError without a GPU."""
    _check_driver()
    runtime = trt.Runtime(logger)
    # Plans carry no code for the CPU; one that does is not ours.
    runtime.engine_host_code_allowed = False
    return runtime


def _check_driver() -> None:
    """Raise GpuUnavailableError where TensorRT would be a null pointer: see `driver.py`."""
    found = read_driver().version
    if found < CUDA:
        raise GpuUnavailableError(
            f"the driver runs CUDA up to {found[0]}.{found[1]}; {CUDA[0]}.{CUDA[1]} is wanted",
            hint=f"update the NVIDIA driver to {CUDA_DRIVER} or newer",
        )
