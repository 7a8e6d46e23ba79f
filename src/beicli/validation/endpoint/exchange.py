"""Requests to somebody's server: bounded in time and size, and each with a way to repeat it."""

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx2

from beicli import __version__

_MAX_ANSWER_BYTES = 64 * 2**20
_MAX_SHOWN_CHARACTERS = 200
_MAX_COMMAND_CHARACTERS = 4_000


class NoAnswerError(Exception):
    """No whole answer came.

    is_down: nobody listens there, so no other request will fare better.
    """

    def __init__(self, what: str, *, command: str, is_down: bool) -> None:
        super().__init__(what)
        self.what = what
        self.command = command
        self.is_down = is_down


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, and the command that gets it again."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    command: str

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 - the class of statuses

    @property
    def is_refusal(self) -> bool:
        """Whether the request, not the server, is said to be at fault."""
        return 400 <= self.status < 500  # noqa: PLR2004 - the class of statuses

    @property
    def value(self) -> Any:
        """The JSON value of the body; None if it is none."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    @property
    def excerpt(self) -> str:
        """The start of the body on one line, for messages."""
        text = " ".join(self.content[:1000].decode("utf-8", "replace").split())
        shown = "".join(character for character in text if character.isprintable())
        return shown if len(shown) <= _MAX_SHOWN_CHARACTERS else f"{shown[:_MAX_SHOWN_CHARACTERS]}…"


class Server:
    """Somebody's server.

    model: what requests call its model.
    """

    def __init__(self, url: str, *, api_key: str | None, timeout_s: float) -> None:
        # What the OpenAI client calls the base URL ends in `/v1`.
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = "model"
        self.has_key = api_key is not None
        self._authorization = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._client = httpx2.Client(
            timeout=timeout_s, headers={"user-agent": f"bei/{__version__}"}, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, *, with_key: bool = True) -> Answer:
        """Ask for `path`; raises NoAnswerError."""
        return self._send("GET", path, None, "", with_key=with_key)

    def post(
        self, path: str, body: Any, *, as_python: str | None = None, with_key: bool = True
    ) -> Answer:
        """Send a JSON value to `path`; raises NoAnswerError.

        as_python: an expression for `body` where that is much shorter, for the command.
        """
        content = json.dumps(body, ensure_ascii=False)
        source = f"-d {shlex.quote(content)}"
        prefix = ""
        if as_python is not None:
            program = f"import json; print(json.dumps({as_python}))"
            prefix, source = f"python3 -c {shlex.quote(program)} | ", "-d @-"
        return self._send("POST", path, content, source, prefix=prefix, with_key=with_key)

    def post_text(self, path: str, content: str) -> Answer:
        """Send a body as it is, declared as JSON; raises NoAnswerError."""
        return self._send("POST", path, content, f"-d {shlex.quote(content)}")

    def _send(  # noqa: PLR0913 - private
        self,
        method: str,
        path: str,
        content: str | None,
        source: str,
        *,
        prefix: str = "",
        with_key: bool = True,
    ) -> Answer:
        headers = dict(self._authorization) if with_key else {}
        parts = [f"{prefix}curl -sS -i {shlex.quote(self.url + path)}"]
        if headers:
            # The variable, not the key: this is printed.
            parts.append('-H "authorization: Bearer $API_KEY"')
        if content is not None:
            headers["content-type"] = "application/json"
            parts += ["-H 'content-type: application/json'", source]
        command = " ".join(parts)[:_MAX_COMMAND_CHARACTERS]
        body = None if content is None else content.encode()
        try:
            with self._client.stream(
                method, self.url + path, content=body, headers=headers
            ) as response:
                return Answer(
                    status=response.status_code,
                    headers=response.headers,
                    content=self._read(response, command),
                    command=command,
                )
        except httpx2.TimeoutException as error:
            is_down = isinstance(error, httpx2.ConnectTimeout)
            what = f"no answer within {self._timeout_s:g} s"
            raise NoAnswerError(what, command=command, is_down=is_down) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            is_down = isinstance(error, httpx2.ConnectError | httpx2.InvalidURL)
            what = str(error) or type(error).__name__
            raise NoAnswerError(what, command=command, is_down=is_down) from error

    def _read(self, response: httpx2.Response, command: str) -> bytes:
        """Read the body, but neither for ever nor without bounds."""
        deadline = time.monotonic() + self._timeout_s
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > _MAX_ANSWER_BYTES:
                what = f"an answer of more than {_MAX_ANSWER_BYTES:,} bytes"
                raise NoAnswerError(what, command=command, is_down=False)
            if time.monotonic() > deadline:
                what = f"an answer that did not end within {self._timeout_s:g} s"
                raise NoAnswerError(what, command=command, is_down=False)
        return bytes(content)
