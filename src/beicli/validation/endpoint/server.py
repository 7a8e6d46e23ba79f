"""Somebody's server: every request is bounded in time and size, and so is the patience with it."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx2

from beicli import __version__
from beicli.errors import UsageError
from beicli.validation.endpoint.address import Address
from beicli.validation.endpoint.exchange import (
    Answer,
    NoAnswerError,
    RateLimitedError,
    Request,
    get,
)
from beicli.validation.endpoint.words import shown

_MAX_ANSWER_BYTES = 64 * 2**20
_MAX_CONNECT_S = 10.0
# What a server that restarts, or closes idle connections, gets before it counts as gone.
_PAUSE_S = 0.3
_MAX_FAILURES_IN_A_ROW = 3
_MAX_WAITS = 3
_MAX_WAIT_S = 15.0
_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503


class Server:
    """Sends requests; `Address` says where to.

    timeout_s: for each answer, from the first byte of the connection to the last of the body.
    """

    def __init__(self, address: Address, *, api_key: str | None, timeout_s: float) -> None:
        if api_key is not None and address.authorization is not None:
            raise UsageError(
                f"`{address.shown}` has a user, and a key is given too: a request has room for one",
                hint="leave out one of them",
            )
        self.address = address
        self._authorization = f"Bearer {api_key}" if api_key else address.authorization
        # The variable, not the key: this is printed.
        shown_key = '-H "authorization: Bearer $API_KEY"'
        self._shown_authorization = shown_key if api_key else "-u '***'"
        self._timeout_s = timeout_s
        self._remembered: dict[Request, Answer] = {}
        self._last_command: str | None = None
        self._failed_commands: list[str] = []
        self._has_answered = False
        self._is_limited = False
        self._runner = asyncio.Runner()
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, _MAX_CONNECT_S)),
            headers={"user-agent": f"bei/{__version__}"},
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    @property
    def has_key(self) -> bool:
        """Whether requests say who asks."""
        return self._authorization is not None

    def send(self, request: Request, *, with_key: bool = True) -> Answer:
        """Send a request; raises NoAnswerError or RateLimitedError."""
        return self._runner.run(self._answer(request, with_key=with_key))

    def send_once(self, request: Request) -> Answer:
        """Send a request, or return what it was answered with before."""
        if request not in self._remembered:
            self._remembered[request] = self.send(request)
        return self._remembered[request]

    def send_together(self, requests: Sequence[Request]) -> list[Answer]:
        """Send all at the same time; returns the answers in the order of the requests."""

        async def run() -> list[Answer | BaseException]:
            tasks = (self._answer(request, with_key=True) for request in requests)
            return await asyncio.gather(*tasks, return_exceptions=True)

        answers: list[Answer] = []
        for answer in self._runner.run(run()):
            if isinstance(answer, BaseException):
                raise answer
            answers.append(answer)
        return answers

    def look_up(self, path: str) -> Answer | None:
        """Ask for something that helps to ask better, once; None if there is no answer."""
        try:
            return self.send_once(get(path))
        except NoAnswerError as error:
            if error.is_down:
                raise
        except RateLimitedError:
            pass
        return None

    async def _answer(self, request: Request, *, with_key: bool) -> Answer:
        """Send a request, and again when the server says it wants a pause first."""
        num_waits = 0
        answer = await self._answer_at_once(request, with_key=with_key)
        while (wait_s := _wanted_pause_s(answer)) is not None:
            if self._is_limited or wait_s > _MAX_WAIT_S or num_waits == _MAX_WAITS:
                break
            await asyncio.sleep(wait_s)
            num_waits += 1
            answer = await self._answer_at_once(request, with_key=with_key)
        else:
            self._is_limited = False
            return answer
        # Once it did not help to wait, the next request does not wait either.
        self._is_limited = True
        raise RateLimitedError(
            f"answer {answer.status}, also after a pause: {answer.excerpt or 'empty'}",
            command=answer.command,
        )

    async def _answer_at_once(self, request: Request, *, with_key: bool) -> Answer:
        shown_authorization = self._shown_authorization if self.has_key and with_key else ""
        command = request.command(self.address.root, shown_authorization)
        try:
            answer = await self._exchange_again(request, command, with_key=with_key)
        except NoAnswerError as error:
            raise self._judge(error) from error
        self._has_answered = True
        self._failed_commands.clear()
        self._last_command = command
        return answer

    def _judge(self, error: NoAnswerError) -> NoAnswerError:
        """Say whether there is any use in another request, and what may have brought this about."""
        # The first of several that failed is to blame, else who lost the connection, else the last
        # one that was still answered.
        suspects = [*self._failed_commands[:1], error.suspect, self._last_command, error.command]
        suspect = next(command for command in suspects if command is not None)
        self._failed_commands.append(error.command)
        num_failures = len(self._failed_commands)
        is_down = error.is_down or num_failures >= _MAX_FAILURES_IN_A_ROW
        what = error.what if error.is_down else f"{num_failures} times in a row {error.what}"
        return NoAnswerError(
            what if is_down else error.what,
            command=error.command,
            is_down=is_down,
            suspect=suspect if is_down and self._has_answered else None,
        )

    async def _exchange_again(self, request: Request, command: str, *, with_key: bool) -> Answer:
        """Send a request, and a second time if the connection is refused or lost."""
        suspect = None
        for is_last in (False, True):
            try:
                return await self._exchange(request, command, with_key=with_key)
            except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
                is_refused = isinstance(error, httpx2.ConnectError)
                if is_last:
                    what = shown(str(error) or type(error).__name__)
                    raise NoAnswerError(
                        what, command=command, is_down=is_refused, suspect=suspect
                    ) from error
                # Who stops listening while it works on a request died of that request.
                suspect = None if is_refused else command
                await asyncio.sleep(_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    async def _exchange(self, request: Request, command: str, *, with_key: bool) -> Answer:
        headers: list[tuple[bytes, bytes]] = []
        if self._authorization is not None and with_key:
            headers.append((b"authorization", self._authorization.encode()))
        if request.content is not None:
            headers.append((b"content-type", b"application/json"))
        content = None if request.content is None else request.content.encode()
        url = request.url(self.address.root)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    request.method, url, content=content, headers=headers
                ) as response,
            ):
                return Answer(
                    request=request,
                    status=response.status_code,
                    headers=response.headers,
                    content=await _read(response, command),
                    command=command,
                )
        except httpx2.ConnectTimeout as error:
            raise NoAnswerError("no connection in time", command=command, is_down=True) from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            what = f"no whole answer within {self._timeout_s:g} s"
            raise NoAnswerError(what, command=command) from error
        except (httpx2.NetworkError, httpx2.RemoteProtocolError):
            raise
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, OSError) as error:
            is_down = isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol)
            what = shown(str(error) or type(error).__name__)
            raise NoAnswerError(what, command=command, is_down=is_down) from error


async def _read(response: httpx2.Response, command: str) -> bytes:
    """Read the body, but not without bounds."""
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > _MAX_ANSWER_BYTES:
            what = f"an answer of more than {_MAX_ANSWER_BYTES:,} bytes"
            raise NoAnswerError(what, command=command)
    return bytes(content)


def _wanted_pause_s(answer: Answer) -> float | None:
    """Return the seconds to wait before the request may be sent again; None if it was taken."""
    wanted = answer.headers.get("retry-after")
    if answer.status != _TOO_MANY_REQUESTS and (answer.status != _UNAVAILABLE or wanted is None):
        return None
    try:
        return max(0.0, float(wanted or 1))
    except ValueError:
        return 1.0  # a date, in words that clocks may disagree about
