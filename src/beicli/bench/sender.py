"""One server as a client sees it: a request goes out, a checked `Reply` comes back.

Answers are read as bytes. Until the first complete one, during the warm-up, and every 64th after
it, an answer is parsed in full; the others only pass a `QuickCheck`.
"""

import io
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Self

import aiohttp
from yarl import URL

from beicli.bench.measurement import Failure, Reply
from beicli.bench.response import (
    InvalidResponseError,
    QuickCheck,
    error_message,
    printable_line,
)
from beicli.bench.routes import Route
from beicli.bench.settings import Target
from beicli.errors import BenchError

_FULL_CHECK_EVERY = 64
# aiohttp warns when a body above this size is handed over as bytes, and wants a file instead.
_MAX_BYTES_BODY = 2**20
_PAGE_TIMEOUT_S = 5.0
# Servers close idle connections after five seconds and more. A request that meets that moment would
# count as a failure, so idle connections of an open loop are given up before.
_KEEPALIVE_S = 4.0
# Servers whose answers have no `usage` may count in a header, as text-embeddings-inference does.
_TOKENS_HEADER = "x-compute-tokens"


class Sender:
    """An open session with one server; to be used within `async with`."""

    def __init__(
        self,
        target: Target,
        route: Route,
        *,
        max_connections: int,
        timeout_s: float,
        query: str = "",
    ) -> None:
        """Prepare for a server; query: what `body` asks a reranker to rank its texts for."""
        self.target = target
        self.url = route.url(target)
        self.served_model: str | None = None
        self._route = route
        self._query = query
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        # Parsed once, not for each request.
        self._parsed_url = URL(self.url)
        self._quick_check: QuickCheck | None = None
        self._num_checked = 0

    async def __aenter__(self) -> Self:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=_KEEPALIVE_S
            ),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers | self.target.headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def body(self, texts: Sequence[str]) -> bytes:
        """Serialise a request that is no load."""
        return self._route.body(texts, query=self._query, model=self.target.model)

    async def send(self, body: bytes, *, is_warming_up: bool) -> Reply:
        """Send a serialised request and wait for its answer; failures are replies too."""
        try:
            status, content, counted = await self.fetch(body)
        except (aiohttp.ClientError, TimeoutError) as error:
            completed_s = time.perf_counter()
            return Reply(completed_s, failure=_failure_of(error, timeout_s=self._timeout_s))
        completed_s = time.perf_counter()
        if status != HTTPStatus.OK:
            failure = Failure(f"status_{status}", error_message(content))
            return Reply(completed_s, response_bytes=len(content), failure=failure)
        try:
            num_tokens = self._check(content, is_warming_up=is_warming_up)
        except InvalidResponseError as error:
            failure = Failure("invalid_response", printable_line(str(error)))
            return Reply(completed_s, response_bytes=len(content), failure=failure)
        return Reply(completed_s, counted if num_tokens is None else num_tokens, len(content))

    async def fetch(self, body: bytes) -> tuple[int, bytes, int | None]:
        """Return an answer's status and body, and the tokens its header counts, unchecked.

        Raises what aiohttp raises, and `TimeoutError`.
        """
        async with self._session.post(
            self._parsed_url,
            data=body if len(body) <= _MAX_BYTES_BODY else io.BytesIO(body),
            allow_redirects=False,
        ) as response:
            content = await response.read()
        counted = response.headers.get(_TOKENS_HEADER, "")
        return response.status, content, int(counted) if counted.isdecimal() else None

    async def fetch_checked(self, body: bytes, *, num_texts: int) -> tuple[bytes, int | None]:
        """Return a complete answer and its token count, if any; raises `BenchError`."""
        try:
            status, content, counted = await self.fetch(body)
            if status == HTTPStatus.OK:
                num_tokens = self._route.read(content, num_texts=num_texts).num_tokens
                return content, counted if num_tokens is None else num_tokens
            failure = Failure(f"status_{status}", error_message(content))
        except InvalidResponseError as error:
            failure = Failure("invalid_response", printable_line(str(error)))
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = _failure_of(error, timeout_s=self._timeout_s)
        raise BenchError(
            f"a request to `{self.url}` failed: {failure.kind}: {failure.message}",
            hint=failure.hint,
        )

    async def page(self, path: str) -> str | None:
        """Return what the server tells of itself at `path`, or None where it has no such page."""
        try:
            async with self._session.get(
                self.target.root + path,
                timeout=aiohttp.ClientTimeout(total=_PAGE_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                page = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError):
            return None
        return page if response.status == HTTPStatus.OK else None

    def _check(self, content: bytes, *, is_warming_up: bool) -> int | None:
        """The answer's token count; raises `InvalidResponseError` unless it is complete."""
        self._num_checked += 1
        may_be_quick = not is_warming_up and self._num_checked % _FULL_CHECK_EVERY != 0
        if may_be_quick and self._quick_check is not None:
            return self._quick_check.num_tokens(content)
        answer = self._route.read(content)
        if self._quick_check is None:
            self._quick_check = self._route.quick_check(content)
            self.served_model = answer.model
        return answer.num_tokens


def _failure_of(error: aiohttp.ClientError | TimeoutError, *, timeout_s: float) -> Failure:
    message = printable_line(str(error) or type(error).__name__)
    match error:
        # First, since a timeout while connecting is also a connection error.
        case TimeoutError():
            return Failure("timeout", f"no answer within {timeout_s:g} s")
        case aiohttp.ClientConnectorDNSError():
            return Failure("name_not_found", f"no address for `{error.host}`")
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return Failure("connection_refused", f"nothing listens at {error.host}:{error.port}")
        case aiohttp.ClientConnectorError():
            return Failure("connection_failed", printable_line(str(error.os_error)))
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return Failure("connection_closed", message)
        case _:
            return Failure("invalid_response", message)
