"""Downloads one file over HTTP, and goes on where a broken connection stopped.

Nothing here shows an address: queries and passwords in it are credentials.
"""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from beicli import __version__
from beicli.config.redaction import public_repo
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.sources.cache import check_free_space
from beicli.sources.checksum import Checksum, Digest
from beicli.sources.http_answer import (
    PARTIAL,
    RemoteState,
    promised_checksum,
    range_start,
    state_in,
)

MAX_BYTES = 256 * 2**30
_READ_BYTES = 2**20
_TIMEOUT_S = 20
_MAX_FAILURES = 5
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_OK, _NOT_SATISFIABLE = 200, 416
# Everything that has a meaning in an address, and what is encoded already.
_KEPT_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"


class _Broken(Exception):  # noqa: N818 - no failure yet: it is tried again
    """The connection broke, or the server asked to come again later."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download came to."""

    size_bytes: int
    sha256: str


class Download:
    """One file at an address."""

    def __init__(self, url: str) -> None:
        self.shown = public_repo(url)
        try:
            self._url, self._authorization = _split_user(url)
        except (ValueError, UnicodeError):
            raise self._bad_address() from None
        self._opener = urllib.request.build_opener(_Redirects())
        self._backoff_s = 0.2

    def probe(self) -> RemoteState:
        """Ask for one byte, to learn what is there."""
        failures = 0
        while True:
            try:
                # Not HEAD: a presigned address is signed for GET only.
                with self._open({"Range": "bytes=0-0"}) as response:
                    return state_in(response)
            except _Broken as broken:
                failures += 1
                self._wait(failures, broken)

    def fetch(self, path: Path, state: RemoteState) -> Downloaded:
        """Write the file to `path`, going on with what is there if it is of the same state."""
        note = path.with_suffix(".json")
        checksum = _resume(path, note, state)
        failures = 0
        highest_offset = path.stat().st_size if path.exists() else 0
        while True:
            try:
                checksum = self._transfer(path, state, note) or checksum
                return self._verify(path, state, checksum)
            except _Broken as broken:
                offset = path.stat().st_size if path.exists() else 0
                # A server that begins anew each time gets no further by breaking off later.
                failures = 1 if offset > highest_offset else failures + 1
                highest_offset = max(highest_offset, offset)
                self._wait(failures, broken)

    def _transfer(self, path: Path, state: RemoteState, note: Path) -> Checksum | None:
        """Append what is missing; return the checksum that the answer promised, if any."""
        offset = path.stat().st_size if path.exists() and state.validator else 0
        if offset and offset == state.size_bytes:
            return None
        headers = {"Range": f"bytes={offset}-", "If-Range": state.validator} if offset else {}
        with self._open(headers) as response:
            found = state_in(response)
            if state.contradicts(found):
                raise CheckpointError(
                    f"`{self.shown}` was changed while it was fetched", hint="run again"
                )
            if response.status != PARTIAL:
                offset = 0
            elif range_start(response) != offset:
                raise CheckpointError(
                    f"`{self.shown}` could not be fetched: the server sent another part of the"
                    " file than the one asked for"
                )
            check_free_space(path.parent, (found.size_bytes or 0) - offset)
            checksum = promised_checksum(response.headers, is_whole=response.status == _OK)
            if checksum is not None:
                note.write_text(_dump(state, checksum), encoding="utf-8")
            with path.open("r+b" if offset else "wb") as output:
                output.seek(offset)
                self._copy(response, output, found)
            return checksum

    def _copy(self, response: HTTPResponse, output: IO[bytes], found: RemoteState) -> None:
        while True:
            try:
                piece = response.read(_READ_BYTES)
            except (OSError, HTTPException) as error:
                raise _Broken("the connection broke") from error
            if not piece:
                break
            output.write(piece)
            if output.tell() > MAX_BYTES:
                raise CheckpointError(f"`{self.shown}` is larger than {MAX_BYTES / 1e9:,.0f} GB")
        if found.size_bytes is not None and output.tell() < found.size_bytes:
            raise _Broken("the connection broke")

    def _verify(self, path: Path, state: RemoteState, checksum: Checksum | None) -> Downloaded:
        digest = Digest(checksum)
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
        size_bytes = path.stat().st_size
        if digest.is_as_expected and state.size_bytes in {None, size_bytes}:
            return Downloaded(size_bytes, digest.sha256)
        path.unlink()
        raise CheckpointError(
            f"`{self.shown}` arrived damaged: its {size_bytes:,} bytes do not match what the"
            " server promised",
            hint="run again; if it stays so, upload the archive again",
        )

    def _open(self, headers: Mapping[str, str]) -> HTTPResponse:
        request = urllib.request.Request(self._url)  # noqa: S310 - `_split_user` saw to the scheme
        # A server that packs once more would make sizes and ranges meaningless.
        for name, value in {"Accept-Encoding": "identity", **headers}.items():
            request.add_unredirected_header(name, value)
        for name, value in {"User-Agent": f"bei/{__version__}", **headers}.items():
            request.add_header(name, value)
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            response: HTTPResponse = self._opener.open(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (InvalidURL, ValueError, OverflowError):
            raise self._bad_address() from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Broken(f"the server cannot be reached ({type(reason).__name__})") from None
        return response

    def _bad_address(self) -> CheckpointError:
        return CheckpointError(
            f"`{self.shown}` is no address that can be asked: its host, its port or a character in"
            " it is not allowed",
            hint="check the address in `repo`",
        )

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        status = error.code
        if status in _RETRIED:
            return _Broken(f"the server answered {status}")
        hints = {
            401: "put the user and the password into the address, or use a presigned one",
            403: "a presigned address stops working after a while: make a new one",
            404: "check the address in `repo`",
        }
        what = (
            "the file is empty" if status == _NOT_SATISFIABLE else f"the server answered {status}"
        )
        return CheckpointError(
            f"`{self.shown}` could not be fetched: {what}", hint=hints.get(status)
        )

    def _wait(self, failures: int, broken: _Broken) -> None:
        if failures >= _MAX_FAILURES:
            raise CheckpointUnavailableError(
                f"`{self.shown}` could not be fetched: {broken.what}",
                hint="check the network; what was fetched so far is kept, so run again",
            ) from None
        time.sleep(self._backoff_s * 2 ** (failures - 1))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to another kind of address or out of encryption."""

    def redirect_request(  # noqa: PLR0913, PLR0917 - the signature is the base's
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        allowed = {"https"} if req.type == "https" else {"https", "http"}
        if urlsplit(newurl).scheme not in allowed:
            raise CheckpointError(
                f"`{public_repo(req.full_url)}` leads on to `{public_repo(newurl)}`, which is"
                " not followed",
                hint="name the address that it leads to, if you trust it",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _split_user(url: str) -> tuple[str, str | None]:
    """Return the address without user and password, and the header that stands for them.

    What only looks well in an address is spelled as it is sent. Raises ValueError if it is none.
    """
    parts = urlsplit(url)
    user, separator, host = parts.netloc.rpartition("@")
    if not host.isascii():
        port = "" if parts.port is None else f":{parts.port}"
        host = f"{(parts.hostname or '').encode('idna').decode()}{port}"
    path, query = (quote(part, safe=_KEPT_CHARACTERS) for part in (parts.path, parts.query))
    plain = urlunsplit((parts.scheme, host, path, query, ""))
    # One that is no number, or out of range, raises when it is looked at.
    if parts.port == 0:
        raise ValueError("no port")
    if not separator:
        return plain, None
    name, _, password = user.partition(":")
    pair = f"{unquote(name)}:{unquote(password)}"
    return plain, f"Basic {base64.b64encode(pair.encode()).decode()}"


def _resume(path: Path, note: Path, state: RemoteState) -> Checksum | None:
    """Keep what is at `path` if it is of this state, and return the checksum promised for it."""
    try:
        values = json.loads(note.read_text(encoding="utf-8"))
        if state.validator and values["state"] == asdict(state):
            checksum = values["checksum"]
            return checksum and Checksum(checksum[0], bytes.fromhex(checksum[1]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    path.unlink(missing_ok=True)
    note.write_text(_dump(state, None), encoding="utf-8")
    return None


def _dump(state: RemoteState, checksum: Checksum | None) -> str:
    promised = checksum and (checksum.algorithm, checksum.digest.hex())
    return json.dumps({"state": asdict(state), "checksum": promised})
