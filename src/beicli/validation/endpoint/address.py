"""Where a server is, without the secrets an address may hold."""

import base64
from dataclasses import dataclass
from urllib.parse import unquote

from beicli.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to send requests.

    root: what routes are appended to; no slash at its end, no user and no password in it.
    origin: scheme, host and port. shown: the address as it was given, with `***` for secrets.
    authorization: the header that user and password ask for, None if there are none.
    """

    root: str
    origin: str
    shown: str
    authorization: str | None


def parse_address(url: str) -> Address:
    """Read the URL of a server, or of its API: `/v1` at the end is left out.

    Raises UsageError if it has a query; that it leads nowhere is for the first request to find.
    """
    if "?" in url or "#" in url:
        raise UsageError(
            f"`{_without_user(url.partition('?')[0].partition('#')[0])}` is followed by a query or "
            "a fragment; the root of a server has neither",
            hint="leave out everything from `?` or `#`; a key belongs into a file: "
            "`--api-key-file FILE`",
        )
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    origin = f"{scheme}{separator}{host}"
    # What the OpenAI client calls the base URL ends in `/v1`.
    root = f"{origin}{slash}{path}".rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(
        root=root,
        origin=origin,
        shown=_without_user(url),
        authorization=_basic(user) if at else None,
    )


def _without_user(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    _, at, host = authority.rpartition("@")
    return f"{scheme}{separator}{'***@' if at else ''}{host}{slash}{path}"


def _basic(user: str) -> str:
    name, _, password = user.partition(":")
    both = f"{unquote(name)}:{unquote(password)}"
    return f"Basic {base64.b64encode(both.encode()).decode()}"
