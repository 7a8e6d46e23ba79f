"""Every failure a user can meet, with the exit code and HTTP status it maps to.

An expected failure is a `BeiError`; anything else that escapes is a bug. This module imports
nothing of the project, so every layer may raise these.
"""

from collections.abc import Mapping
from typing import ClassVar


class BeiError(Exception):
    """An expected failure: what was found, what was wanted, and the next step.

    message: one sentence without a full stop; safe to show to any client.
    hint: what to do about it, or None when there is nothing to add.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "Backend"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BeiError):
    """The command line asks for something that cannot be done."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """A `config.yaml` is not what it should be; the message lists every problem.

    problems: the same one by one, as `beicli.config.problems.ConfigProblem`.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, problems: tuple[object, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class CheckpointError(BeiError):
    """A checkpoint cannot be fetched or read, or lacks a file."""


class CheckpointUnavailableError(CheckpointError):
    """Nobody can say whether a checkpoint is sound: its store is out of reach, or closed to us."""


class UnsupportedModelError(CheckpointError):
    """A checkpoint is sound, but nothing here can serve it."""


class BuildError(BeiError):
    """An engine could not be built from a sound checkpoint."""


class AccuracyError(BuildError):
    """A compiled engine disagrees with the float32 reference by more than its precision allows."""


class ArtifactError(BeiError):
    """An engine directory is missing, damaged, foreign or made for something else."""


class ToolMissingError(BeiError):
    """A package that something needs is not installed, or not in the version wanted."""


class GpuUnavailableError(BeiError):
    """There is no GPU here, or no driver, or not the GPU that an engine is for."""


class PlanError(BeiError):
    """TensorRT cannot compile a graph, or there is no plan and none may be compiled."""


class UnfusedAttentionError(PlanError):
    """TensorRT has no kernel for the whole of attention in this shape and type."""


class ServerStartError(BeiError):
    """The server cannot start: the address is taken, the engine does not warm up."""


class BenchError(BeiError):
    """A benchmark could not be run, or not one request succeeded."""


class EngineError(BeiError):
    """A forward pass failed or returned numbers that are no numbers."""

    http_status: ClassVar[int] = 424
    error_type: ClassVar[str] = "Backend"


class EngineLostError(EngineError):
    """An engine can compute nothing more in this process; a new process may.

    Its exit code is that of `sysexits.h` for what is worth another try.
    """

    exit_code: ClassVar[int] = 75


class WrongTaskError(BeiError):
    """A route asks for something this model does not do."""

    http_status: ClassVar[int] = 424
    error_type: ClassVar[str] = "Backend"


class UnhealthyError(BeiError):
    """The engine does not answer, or the server is shutting down."""

    http_status: ClassVar[int] = 503
    error_type: ClassVar[str] = "Unhealthy"


class OverloadedError(BeiError):
    """The server holds as much as it may; the caller should retry.

    retry_after_s: when there is likely to be room. queue: what waits, by the names that answers
    give it; empty where nobody knows.
    """

    http_status: ClassVar[int] = 429
    error_type: ClassVar[str] = "Overloaded"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after_s: int = 1,
        queue: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.queue = queue or {}


class QueueFullError(OverloadedError):
    """More waits already than the server lets wait."""


class DeadlineTooSoonError(OverloadedError):
    """A request could not be answered in the time that its caller gives it."""


class DeadlineExceededError(BeiError):
    """The time that a caller gave its request is over, and there is no answer."""

    http_status: ClassVar[int] = 504
    error_type: ClassVar[str] = "Timeout"


class RequestError(BeiError):
    """A request is not what the route accepts.

    param: the request field at fault, or None when it is the request as a whole.
    """

    http_status: ClassVar[int] = 422
    error_type: ClassVar[str] = "Validation"

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class EmptyInputError(RequestError):
    """An input, or the list of inputs, is empty."""

    http_status: ClassVar[int] = 400
    error_type: ClassVar[str] = "Empty"


class InputTooLongError(RequestError):
    """An input is beyond the model's window, and may not be cut."""


class BatchTooLargeError(RequestError):
    """A request holds more inputs than the server takes at once."""

    http_status: ClassVar[int] = 413


class PayloadTooLargeError(RequestError):
    """A request body is longer than the server reads."""

    http_status: ClassVar[int] = 413


class MalformedBodyError(RequestError):
    """A request body is not JSON."""

    http_status: ClassVar[int] = 400


class ContentTypeError(RequestError):
    """A request body is not declared as JSON."""

    http_status: ClassVar[int] = 415


class TokenizerError(RequestError):
    """The tokenizer cannot read an input."""

    error_type: ClassVar[str] = "Tokenizer"
