"""A bucket behind one of fsspec's file systems, and what its errors mean."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from beicli.config.redaction import public_repo
from beicli.errors import CheckpointError, CheckpointUnavailableError, UsageError
from beicli.sources.checksum import Checksum
from beicli.sources.files import RemoteFile, check_name, is_onnx, is_wanted
from beicli.sources.secrets import Secret

_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://\S+")
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
        "refreshing credentials",
        "anonymous caller",
    }
)
_REFUSED_CODES = frozenset({401, 403})
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
    "IncompleteReadError",
    "ClientPayloadError",
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

    repo: as it may be shown. secret_name: what the configuration calls it. secret: None leaves it
    to the library's own places, where whoever uses the store from here has their credentials.
    """

    repo: str
    root: str
    secret_name: str
    secret: Secret | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FsspecBucket:
    """A folder of a file system.

    version: what changes with a file's content, from the listing. checksum_of: the checksum the
    store gives, from the full path and the listing. listing: full path and what the store lists of
    each file, by its name here.
    """

    location: Location
    filesystem: Any
    version: Callable[[Mapping[str, Any]], str]
    checksum_of: Callable[[str, Mapping[str, Any]], Checksum | None]
    default_credentials: str
    listing: dict[str, tuple[str, Mapping[str, Any]]]

    def list_files(self) -> list[RemoteFile]:
        root = f"{self.location.root}/"
        self.filesystem.invalidate_cache()
        found = self.filesystem.find(self.location.root, detail=True)
        self.listing.clear()
        files = []
        for path, info in found.items():
            # Empty objects that end in a slash stand for folders.
            if info["type"] != "file" or not path.startswith(root) or path.endswith("/"):
                continue
            name = self._checked(path.removeprefix(root))
            if name is not None:
                self.listing[name] = (path, info)
                files.append(RemoteFile(name, int(info["size"]), self.version(info)))
        return files

    def _checked(self, key: str) -> str | None:
        """Return the plain form of a key below the folder; None if nobody reads such a name."""
        where = f"`{self.location.repo}`"
        try:
            name = check_name(key, where=where)
        except CheckpointError:
            if is_wanted(key) or is_onnx(key):
                raise
            return None
        # Where folders are only a manner of speaking, `a//b` and `a/b` are two keys.
        is_taken = name in self.listing
        if is_taken and (is_wanted(name) or is_onnx(name)):
            raise CheckpointError(f"{where} holds two files with the name `{name}`")
        return name if name.isprintable() and not is_taken else None

    def read(self, file: RemoteFile, start: int, end: int) -> Future[bytes]:
        if start >= end:
            empty: Future[bytes] = Future()
            empty.set_result(b"")
            return empty
        path, _ = self.listing[file.name]
        # Not through the library's own waiting, which cannot be called off.
        return asyncio.run_coroutine_threadsafe(
            self.filesystem._cat_file(path, start=start, end=end),  # noqa: SLF001 - as documented
            self.filesystem.loop,
        )

    def checksum(self, file: RemoteFile) -> Checksum | None:
        return self.checksum_of(*self.listing[file.name])

    def explain(self, error: Exception) -> CheckpointError:
        repo = self.location.repo
        text = _redacted(f"{type(error).__name__} {error}", self.location.secret)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {*_NO_CREDENTIALS}:
            return CheckpointUnavailableError(
                f"`{repo}` cannot be read: no credentials were found", hint=self._how_to_sign_in()
            )
        if _is_refusal(error, text):
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


def _is_refusal(error: Exception, text: str) -> bool:
    is_refused = isinstance(error, PermissionError) or any(
        word in text.lower() for word in _REFUSED
    )
    return is_refused or getattr(error, "code", None) in _REFUSED_CODES


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


def keep_quiet(logger_name: str) -> None:
    """Keep a library's log, which repeats every error with its traceback, off the screen.

    Whoever sets up logging still gets it.
    """
    logger = logging.getLogger(logger_name)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def run_to_end(filesystem: Any, close: Callable[[], Any]) -> None:
    """Run a coroutine function on the file system's own loop and wait for it."""
    future = asyncio.run_coroutine_threadsafe(close(), filesystem.loop)
    future.result(timeout=5)


def _redacted(text: str, secret: Secret | None) -> str:
    # Before anything else: half a secret, or one on one line, would not be found any more.
    redacted = secret.redact(text) if secret else text
    redacted = _ADDRESS.sub(lambda found: public_repo(found[0]), redacted)
    return " ".join(redacted.split())[:500]
