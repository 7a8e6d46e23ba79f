"""One HTTP exchange apart from its content: who is let in, the body, and a client that leaves.

The reasons are in docs/explanation/disconnects.md.
"""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beicli.errors import ContentTypeError, PayloadTooLargeError, UnhealthyError
from beicli.scheduler.admission import QueueState, too_many_requests
from beicli.scheduler.terms import Priority
from beicli.server.errors import BodyTimeoutError, ClientLeftError

# A peer that vanished without a word must not keep its place for ever.
BODY_TIMEOUT_S = 120.0
# Nor one that sends a byte now and then: after so long, so much must come every second.
BODY_GRACE_S = 20.0
MIN_BODY_BYTES_PER_S = 1024
# How long the rest of a refused body is read, so that the client gets to see the refusal.
LINGER_S = 10.0
_NOTHING_KNOWN = QueueState(num_sequences=0, num_tokens=0, priority=Priority.BULK, wait_s=None)


class Admission:
    """How many inference requests are inside, and whether more may enter; a context manager.

    A whole request is admitted or refused, however many inputs it has.
    queue_state: what waits for the engine; may be set later.
    """

    def __init__(self, max_concurrent_requests: int) -> None:
        self.queue_state: Callable[[], QueueState] = lambda: _NOTHING_KNOWN
        self._max_concurrent_requests = max_concurrent_requests
        self._inside: set[asyncio.Task[object]] = set()
        self._aborted = False
        self._draining = False

    @property
    def num_inside(self) -> int:
        return len(self._inside)

    @property
    def draining(self) -> bool:
        """Whether the server was told to stop."""
        return self._draining

    def drain(self) -> None:
        """Report not ready from now on; those inside go on."""
        self._draining = True

    def abort(self) -> None:
        """End everyone inside with UnhealthyError."""
        self._draining = self._aborted = True
        for task in self._inside:
            task.cancel()

    def __enter__(self) -> Self:
        if self._aborted:
            raise UnhealthyError("the server is shutting down")
        if len(self._inside) >= self._max_concurrent_requests:
            raise too_many_requests(self._max_concurrent_requests, self.queue_state())
        self._inside.add(_current_task())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = _current_task()
        self._inside.discard(task)
        if self._aborted and exc_type is asyncio.CancelledError:
            task.uncancel()
            raise UnhealthyError("the server is shutting down") from exc


class DisconnectWatch:
    """`async with`: cancels the block when the client leaves, and raises ClientLeftError then.

    Hypercorn sends `http.disconnect` but leaves the handler running. Enter it only when the whole
    body has been received: it reads the messages that follow.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._client_left = False

    async def __aenter__(self) -> Self:
        self._task = _current_task()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watcher.cancel()
        if self._client_left and exc_type is asyncio.CancelledError:
            self._task.uncancel()
            raise ClientLeftError from exc

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_left = True
        # The block is waiting for something while this runs, so the cancellation arrives in it.
        self._task.cancel()


def check_content_type(headers: Mapping[bytes, bytes]) -> None:
    """Raise ContentTypeError unless the body is declared to be plain JSON."""
    declared = headers.get(b"content-type", b"").decode("latin-1")
    media_type = declared.partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    if not is_json:
        raise ContentTypeError(
            "Expected request with `Content-Type: application/json`",
            hint=f"`{declared}` was given" if declared else "the request has no content type",
        )
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if encoding.strip().lower() != "identity":
        raise ContentTypeError(
            f"request bodies in `Content-Encoding: {encoding}` are not read",
            hint="send the JSON uncompressed",
        )


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, *, max_bytes: int) -> bytes:
    """Read a request body of at most `max_bytes`.

    Raises PayloadTooLargeError as soon as the body is known to be longer, ClientLeftError,
    and BodyTimeoutError if it takes too long or comes too slowly.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes, found=f"{int(declared)} bytes were announced")
    chunks: list[bytes] = []
    size = 0
    started_at = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(BODY_GRACE_S) as limit:
            has_more = True
            while has_more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes, found="the body goes on beyond that")
                chunks.append(chunk)
                has_more = message.get("more_body", False)
                if has_more:
                    allowed_s = BODY_GRACE_S + size / MIN_BODY_BYTES_PER_S
                    limit.reschedule(started_at + min(allowed_s, BODY_TIMEOUT_S))
    except TimeoutError as error:
        waited_s = asyncio.get_running_loop().time() - started_at
        raise BodyTimeoutError(
            f"the request body did not arrive within {waited_s:.3g} s",
            hint=f"{size} bytes arrived; send fewer inputs in a request",
        ) from error
    return b"".join(chunks)


class FinishRequestBody:
    """ASGI middleware: answers at once, then reads what is left of the request's body.

    A route may answer before it has read the body, or all of it. Closing the socket then makes
    the kernel reset the connection, and the client loses the answer with it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_complete = False

        async def watched_receive() -> Message:
            nonlocal is_complete
            message = await receive()
            # The last part of the body, or `http.disconnect`, after which there is none.
            is_complete = not message.get("more_body", False)
            return message

        async def finishing_send(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if is_last and not is_complete:
                await send({**message, "more_body": True})
                await _discard(watched_receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, watched_receive, finishing_send)


async def _discard(receive: Receive) -> None:
    """Read up to the end of the body, or for LINGER_S."""
    try:
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return


def _too_large(max_bytes: int, *, found: str) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        "Failed to buffer the request body: length limit exceeded",
        hint=f"{found}; a body may have {max_bytes} bytes: send fewer or shorter inputs",
    )


def _current_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    assert task is not None, "a request is handled in a task"
    return task
