"""How a failure looks on the wire: one table from error class to the words of each API."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beicli.errors import (
    BatchTooLargeError,
    BeiError,
    ContentTypeError,
    DeadlineExceededError,
    DeadlineTooSoonError,
    EmptyInputError,
    EngineError,
    InputTooLongError,
    MalformedBodyError,
    OverloadedError,
    PayloadTooLargeError,
    QueueFullError,
    RequestError,
    TokenizerError,
    UnhealthyError,
    WrongTaskError,
)
from beicli.server.records import DROPPED, record_of, shown_method, shown_route
from beicli.server.request_ids import request_id

logger = logging.getLogger(__name__)


class UnknownRouteError(RequestError):
    """Nothing is served at this path."""

    http_status: ClassVar[int] = 404
    error_type: ClassVar[str] = "NotFound"


class MethodNotAllowedError(RequestError):
    """The path exists, but not for this method; allow: the methods it takes."""

    http_status: ClassVar[int] = 405
    error_type: ClassVar[str] = "MethodNotAllowed"

    def __init__(self, message: str, *, hint: str, allow: str) -> None:
        super().__init__(message, hint=hint)
        self.allow = allow


class UnknownModelError(RequestError):
    """A client asks about a model this server does not have."""

    http_status: ClassVar[int] = 404
    error_type: ClassVar[str] = "NotFound"


class BodyTimeoutError(RequestError):
    """A request body did not arrive in time."""

    http_status: ClassVar[int] = 408


class KeyLimitError(OverloadedError):
    """An API key asks for more than each of them may."""


class LoadingError(UnhealthyError):
    """The server has no engine yet."""

    # Clients try again once or twice: often enough to see most engines loaded.
    retry_after_s: ClassVar[int] = 5


class ForbiddenError(RequestError):
    """Nobody may ask for this from where the request comes."""

    http_status: ClassVar[int] = 403
    error_type: ClassVar[str] = "Forbidden"


class ReloadError(BeiError):
    """No other engine took the place of the one that serves."""


class ReloadUnderWayError(ReloadError):
    """A reload was asked for while there is one."""

    http_status: ClassVar[int] = 409


class InternalError(BeiError):
    """A bug: the log has the traceback, the client gets a number to ask about."""

    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "Internal"


class ClientLeftError(Exception):
    """The client closed the connection; nobody reads an answer any more."""


@dataclass(frozen=True, slots=True)
class Words:
    """What one class of error is called.

    openai_type, code: `error.type` and `error.code` of the OpenAI shape; clients may match `code`.
    failure: the `err` label of the metric `te_request_failure`.
    reason: what other metrics and the log say, where `code` says too little; else None.
    """

    openai_type: str
    code: str
    failure: str
    reason: str | None = None


# A class that is not listed takes the words of its nearest base.
WORDS: Mapping[type[BeiError], Words] = {
    BeiError: Words("server_error", "internal_error", "internal"),
    EngineError: Words("server_error", "engine_error", "inference"),
    WrongTaskError: Words("invalid_request_error", "wrong_model_type", "model_type"),
    UnhealthyError: Words("server_error", "service_unavailable", "unhealthy"),
    OverloadedError: Words("rate_limit_error", "rate_limit_exceeded", "overloaded"),
    QueueFullError: Words("rate_limit_error", "rate_limit_exceeded", "overloaded", "queue_full"),
    DeadlineTooSoonError: Words(
        "rate_limit_error", "rate_limit_exceeded", "overloaded", "deadline_too_soon"
    ),
    DeadlineExceededError: Words("server_error", "deadline_exceeded", "deadline"),
    KeyLimitError: Words("rate_limit_error", "rate_limit_exceeded", "key_limit", "key_limit"),
    RequestError: Words("invalid_request_error", "invalid_value", "validation"),
    EmptyInputError: Words("invalid_request_error", "empty_input", "validation"),
    InputTooLongError: Words(
        "invalid_request_error", "invalid_value", "validation", "input_too_long"
    ),
    BatchTooLargeError: Words("invalid_request_error", "batch_too_large", "batch_size"),
    PayloadTooLargeError: Words("invalid_request_error", "payload_too_large", "validation"),
    MalformedBodyError: Words("invalid_request_error", "invalid_json", "validation"),
    ContentTypeError: Words("invalid_request_error", "unsupported_media_type", "validation"),
    BodyTimeoutError: Words("invalid_request_error", "request_timeout", "validation"),
    TokenizerError: Words("invalid_request_error", "tokenizer_error", "tokenization"),
    UnknownRouteError: Words("invalid_request_error", "unknown_url", "validation"),
    MethodNotAllowedError: Words("invalid_request_error", "method_not_allowed", "validation"),
    ForbiddenError: Words("invalid_request_error", "forbidden", "validation"),
    ReloadError: Words("server_error", "reload_failed", "internal"),
    ReloadUnderWayError: Words("server_error", "reload_under_way", "internal"),
    UnknownModelError: Words("invalid_request_error", "model_not_found", "validation"),
}


def words_for(error: BeiError) -> Words:
    """Return the table's row for `error`'s class or its nearest base."""
    return next(WORDS[base] for base in type(error).__mro__ if base in WORDS)


def speaks_openai(path: str) -> bool:
    """Whether errors at `path` take OpenAI's shape, also on Cohere's routes."""
    return path.startswith(("/v1/", "/v2/")) or path == "/embeddings"


def error_response(error: BeiError, *, path: str) -> Response:
    """Return the answer to `error` in the shape that clients of `path` expect."""
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError | LoadingError):
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = error.allow
    return Response(
        orjson.dumps(_openai_body(error) if speaks_openai(path) else _tei_body(error)),
        status_code=error.http_status,
        headers=headers,
        media_type="application/json",
    )


def _openai_body(error: BeiError) -> dict[str, Any]:
    words = words_for(error)
    body: dict[str, Any] = {
        "message": error.message,
        "type": words.openai_type,
        "param": error.param if isinstance(error, RequestError) else None,
        "code": words.code,
    }
    return {"error": body | _more(error)}


def _tei_body(error: BeiError) -> dict[str, Any]:
    return {"error": error.message, "error_type": error.error_type} | _more(error)


def _more(error: BeiError) -> dict[str, Any]:
    """What both shapes have beyond what their APIs say."""
    more: dict[str, Any] = {} if error.hint is None else {"hint": error.hint}
    if isinstance(error, OverloadedError) and error.queue:
        more["queue"] = dict(error.queue)
    return more


class AnswerErrors:
    """ASGI middleware: turns whatever escapes a route into an answer, and a bug into a log line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def watched_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientLeftError:
            record_of(scope).failure = DROPPED
        except Exception as error:  # noqa: BLE001 - the boundary: no traceback reaches a client
            answer = error if isinstance(error, BeiError) else _log_bug(error, scope)
            words = words_for(answer)
            record_of(scope).failure = words.reason or words.code
            if not has_started:
                await error_response(answer, path=scope["path"])(scope, receive, send)


def _log_bug(error: Exception, scope: Scope) -> InternalError:
    known_as = request_id(scope)
    # The route, not the path, which is the client's own text.
    what = (known_as, shown_method(scope), shown_route(scope))
    logger.error("request %s failed: %s %s", *what, exc_info=error)
    return InternalError(
        f"internal error; request id {known_as}",
        hint="this is a bug in bei: the server's log has the details under this id",
    )
