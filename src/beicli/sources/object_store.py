"""A bucket behind one of fsspec's file systems, and what its errors mean."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from beicli.errors import CheckpointError, CheckpointUnavailableError, UsageError
from beicli.sources.checksum import Checksum
from beicli.sources.files import RemoteFile, check_name
from beicli.sources.secrets import Secret

_REFUSED = frozenset(
    {
        "accessdenied",
        "forbidden",
        "invalidaccesskeyid",
        "signaturedoesnotmatch",
        "authenticationfailed",
        "authorizationfailure",
        "invalid credentials",
        "expiredtoken",
        "invalidtoken",
        "refresherror",
    }
)
_UNREACHABLE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ReadTimeoutError",
    "ServiceRequestError",
    "ServiceResponseError",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ServerDisconnectedError",
    "ConnectionError",
    "TimeoutError",
    "TransportError",
)
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialUnavailableError",
    "DefaultCredentialsError",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A folder in an object store, and the secret to open it with.

    secret_name: what the configuration calls it; secret: None leaves it to the library's own
    places, where whoever uses the store from here has their credentials already.
    """

    repo: str
    root: str
    secret_name: str
    secret: Secret | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FsspecBucket:
    """A folder of a file system.

    version: what changes with a file's content, from the listing. checksum_of: the checksum the
    store gives, from the full path and the listing.
    """

    location: Location
    filesystem: Any
    version: Callable[[Mapping[str, Any]], str]
    checksum_of: Callable[[str, Mapping[str, Any]], Checksum | None]
    default_credentials: str
    listing: dict[str, Mapping[str, Any]]

    def list_files(self) -> list[RemoteFile]:
        root = f"{self.location.root}/"
        self.filesystem.invalidate_cache()
        found = self.filesystem.find(self.location.root, detail=True)
        files = []
        for path, info in found.items():
            # Empty objects that end in a slash stand for folders.
            if info["type"] != "file" or not path.startswith(root) or path.endswith("/"):
                continue
            name = check_name(path.removeprefix(root), where=f"`{self.location.repo}`")
            self.listing[name] = info
            files.append(RemoteFile(name, int(info["size"]), self.version(info)))
        return files

    def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        path = f"{self.location.root}/{file.name}"
        return bytes(self.filesystem.cat_file(path, start=start, end=end))

    def checksum(self, file: RemoteFile) -> Checksum | None:
        return self.checksum_of(f"{self.location.root}/{file.name}", self.listing[file.name])

    def explain(self, error: Exception) -> CheckpointError:
        repo = self.location.repo
        text = _redacted(f"{type(error).__name__} {error}", self.location.secret)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {*_NO_CREDENTIALS}:
            return CheckpointUnavailableError(
                f"`{repo}` cannot be read: no credentials were found", hint=self._how_to_sign_in()
            )
        if isinstance(error, PermissionError) or any(word in text.lower() for word in _REFUSED):
            return CheckpointError(
                f"`{repo}` cannot be read: the store refused access", hint=self._how_to_sign_in()
            )
        if isinstance(error, FileNotFoundError) or kinds & {"ResourceNotFoundError"}:
            return CheckpointError(
                f"`{repo}` does not exist, or may not be seen",
                hint="check the bucket and the path in `repo`",
            )
        if kinds & {*_UNREACHABLE}:
            return CheckpointUnavailableError(
                f"`{repo}` could not be fetched: the store cannot be reached",
                hint="check the network and the endpoint; what was fetched so far is kept, so run"
                " again",
            )
        return CheckpointError(
            f"`{repo}` could not be fetched: {text}",
            hint="what was fetched so far is kept: run again",
        )

    def _how_to_sign_in(self) -> str:
        secret = self.location.secret
        if secret is not None:
            return f"check the secret `{secret.name}`, found in {secret.origin}"
        return (
            f"no secret `{self.location.secret_name}` was found; set it, or sign in for the"
            f" library: {self.default_credentials}"
        )


@contextmanager
def opening(location: Location) -> Iterator[None]:
    """Put into words what a library says while it reads credentials, without showing them."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        text = _redacted(str(error), location.secret)
        which = f"secret `{location.secret.name}`" if location.secret else "credentials found"
        raise CheckpointError(
            f"`{location.repo}` cannot be opened with the {which}: {text}",
            hint=f"check its form in {location.secret.origin}" if location.secret else None,
        ) from None


@contextmanager
def needs_package(module: str, extra: str, source: str) -> Iterator[None]:
    """Turn a missing optional package into a sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"checkpoints from `{source}` need the package `{module}`, which is not installed",
            hint=f"install it with `pip install 'beicli[{extra}]'`",
        ) from error


def credentials_in(location: Location, *, form: str) -> Mapping[str, Any] | None:
    """Return the secret's JSON object; None if there is no secret.

    form: what is wanted, for the message.
    """
    if location.secret is None:
        return None
    values = location.secret.as_object()
    if values is None:
        raise CheckpointError(
            f"the secret `{location.secret_name}`, found in {location.secret.origin}, is not a"
            " JSON object",
            hint=f"it must be {form}",
        )
    return values


def require_keys(location: Location, values: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    """Return texts from the secret; raises CheckpointError naming the one that is missing."""
    missing = [key for key in keys if not isinstance(values.get(key), str) or not values[key]]
    if missing:
        names = ", ".join(f"`{key}`" for key in missing)
        raise CheckpointError(f"the secret `{location.secret_name}` has no {names}")
    return tuple(values[key] for key in keys)


def run_to_end(filesystem: Any, close: Callable[[], Any]) -> None:
    """Run a coroutine function on the file system's own loop and wait for it."""
    future = asyncio.run_coroutine_threadsafe(close(), filesystem.loop)
    future.result(timeout=5)


def _redacted(text: str, secret: Secret | None) -> str:
    one_line = " ".join(text.split())[:500]
    return secret.redact(one_line) if secret else one_line
