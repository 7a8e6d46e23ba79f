"""A request to somebody's server and what came of it, each with a command that repeats it."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from beicli.validation.endpoint.words import is_encodable, shown

_MAX_EXCERPT_CHARACTERS = 200
_MAX_COMMAND_CHARACTERS = 4_000
_NO_PROOF = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class NoAnswerError(Exception):
    """No whole answer came.

    is_down: no other request will fare better.
    suspect: the command after which a server that had answered answered no more, else None.
    """

    def __init__(
        self, what: str, *, command: str, is_down: bool = False, suspect: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.command = command
        self.is_down = is_down
        self.suspect = suspect


class RateLimitedError(Exception):
    """The server wants fewer requests than even one that waits sends."""

    def __init__(self, what: str, *, command: str) -> None:
        super().__init__(what)
        self.what = what
        self.command = command


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent: JSON to a path, or nothing if `content` is None.

    path: after the root of the server, or a whole URL.
    program: a Python expression for the content where that is much shorter, for the command.
    """

    method: str
    path: str
    content: str | None = None
    program: str | None = None

    def url(self, root: str) -> str:
        """Return where it is sent."""
        return self.path if "://" in self.path else root + self.path

    def command(self, root: str, authorization: str) -> str:
        """Return a shell command that sends it; authorization: options of curl."""
        parts = [f"curl -sS -i {shlex.quote(self.url(root))}"]
        if authorization:
            parts.append(authorization)
        if self.content is not None:
            source = "-d @-" if self.program else f"-d {shlex.quote(self.content)}"
            parts += ["-H 'content-type: application/json'", source]
        if self.program:
            script = f"import json; print(json.dumps({self.program}))"
            parts.insert(0, f"python3 -c {shlex.quote(script)} |")
        return " ".join(parts)[:_MAX_COMMAND_CHARACTERS]


def get(path: str) -> Request:
    """Ask for `path`."""
    return Request(method="GET", path=path)


def post(path: str, body: object, *, as_python: str | None = None) -> Request:
    """Send a JSON value; as_python: an expression for `body` where that is much shorter."""
    content = json.dumps(body, ensure_ascii=False)
    if not is_encodable(content):
        content = json.dumps(body)
    return Request(method="POST", path=path, content=content, program=as_python)


def post_text(path: str, content: str) -> Request:
    """Send a body as it is, declared as JSON."""
    return Request(method="POST", path=path, content=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, what was asked, and the command that gets it again."""

    request: Request
    status: int
    headers: Mapping[str, str]
    content: bytes
    command: str

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 - the class of statuses

    @property
    def is_redirect(self) -> bool:
        """Whether the request is to be sent somewhere else."""
        return 300 <= self.status < 400 and "location" in self.headers  # noqa: PLR2004 - the same

    @property
    def is_key_wanted(self) -> bool:
        """Whether the server does not let us in."""
        return self.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}

    @property
    def proves_nothing(self) -> bool:
        """Whether it is about who asks, how often or how slowly, and not about what was asked."""
        return self.status in _NO_PROOF

    @property
    def is_refusal(self) -> bool:
        """Whether what was asked, not the server and not who asks, is said to be at fault."""
        return 400 <= self.status < 500 and not self.proves_nothing  # noqa: PLR2004 - the same

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
        text = self.content[:4000].decode("utf-8", "replace")
        return shown(text, max_characters=_MAX_EXCERPT_CHARACTERS)
