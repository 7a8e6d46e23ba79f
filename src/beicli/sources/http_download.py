"""Downloads one file over HTTP, and goes on where a broken connection stopped.

Nothing here shows an address: queries and passwords in it are credentials.
"""

import base64
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from beicli import __version__
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.sources.cache import check_free_space
from beicli.sources.checksum import Checksum, Digest, strongest
from beicli.sources.redaction import public_repo

MAX_BYTES = 256 * 2**30
_READ_BYTES = 2**20
_TIMEOUT_S = 30
_MAX_FAILURES = 5
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _Broken(Exception):  # noqa: N818 - no failure yet: it is tried again
    """The connection broke, or the server asked to come again later."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteState:
    """What a server says of a file, without its content.

    etag, last_modified: as in the headers, empty if absent. size_bytes: None if not said.
    """

    etag: str = ""
    last_modified: str = ""
    size_bytes: int | None = None

    @property
    def validator(self) -> str:
        """What `If-Range` accepts, empty if there is nothing; a weak ETag promises too little."""
        return self.etag if self.etag.startswith('"') else self.last_modified

    @property
    def is_known(self) -> bool:
        """Whether another content would show."""
        return bool(self.etag or self.last_modified)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download came to."""

    size_bytes: int
    sha256: str


class Download:
    """One file at an address."""

    def __init__(self, url: str) -> None:
        self.shown = public_repo(url)
        self._url, self._authorization = _split_user(url)
        self._opener = urllib.request.build_opener(_Redirects())
        self._backoff_s = 0.2

    def probe(self) -> RemoteState:
        """Ask for one byte, to learn what is there."""
        failures = 0
        while True:
            try:
                # Not HEAD: a presigned address is signed for GET only.
                with self._open({"Range": "bytes=0-0"}) as response:
                    return _state(response)
            except _Broken as broken:
                failures += 1
                self._wait(failures, broken)

    def fetch(self, path: Path, state: RemoteState) -> Downloaded:
        """Write the file to `path`, going on with what is there if it is of the same state."""
        note = path.with_suffix(".json")
        checksum = _resume(path, note, state)
        failures = 0
        while True:
            size_before = path.stat().st_size if path.exists() else 0
            try:
                checksum = self._transfer(path, state, note) or checksum
                return self._verify(path, state, checksum)
            except _Broken as broken:
                has_moved = path.exists() and path.stat().st_size > size_before
                failures = 1 if has_moved else failures + 1
                self._wait(failures, broken)

    def _transfer(self, path: Path, state: RemoteState, note: Path) -> Checksum | None:
        """Append what is missing; return the checksum that the answer promised, if any."""
        offset = path.stat().st_size if path.exists() and state.validator else 0
        if offset and offset == state.size_bytes:
            return None
        headers = {"Range": f"bytes={offset}-", "If-Range": state.validator} if offset else {}
        with self._open(headers) as response:
            found = _state(response)
            if state.is_known and found != state:
                raise CheckpointError(
                    f"`{self.shown}` was changed while it was fetched", hint="run again"
                )
            if response.status != _PARTIAL:
                offset = 0
            elif _range_start(response) != offset:
                raise CheckpointError(
                    f"`{self.shown}` could not be fetched: the server sent another part of the"
                    " file than the one asked for"
                )
            check_free_space(path.parent, (found.size_bytes or 0) - offset)
            checksum = _promised(response.headers, is_whole=response.status == _OK)
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
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Broken(f"the server cannot be reached ({type(reason).__name__})") from None
        return response

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
    """Return the address without user and password, and the header that stands for them."""
    parts = urlsplit(url)
    user, separator, host = parts.netloc.rpartition("@")
    plain = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    if not separator:
        return plain, None
    name, _, password = user.partition(":")
    pair = f"{unquote(name)}:{unquote(password)}"
    return plain, f"Basic {base64.b64encode(pair.encode()).decode()}"


def _state(response: HTTPResponse) -> RemoteState:
    size: int | None = None
    if response.status == _PARTIAL:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        size = int(found[3]) if found else None
    else:
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdigit() else None
    return RemoteState(
        etag=response.headers.get("ETag", "").strip(),
        last_modified=response.headers.get("Last-Modified", "").strip(),
        size_bytes=size,
    )


def _range_start(response: HTTPResponse) -> int | None:
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return int(found[1]) if found else None


def _promised(headers: Message, *, is_whole: bool) -> Checksum | None:
    """Read the checksum of the whole file from an answer, in the forms that servers use."""
    # `Digest: sha-256=…` (RFC 3230), `Repr-Digest: sha-256=:…:` (RFC 9530), `x-goog-hash: md5=…`
    listed = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5", "crc32c": "crc32c"}
    found: list[Checksum | None] = []
    for name in ("Repr-Digest", "Digest", "x-goog-hash"):
        for item in _all(headers, name):
            kind, _, value = item.strip().partition("=")
            algorithm: Any = listed.get(kind.lower())
            if algorithm:
                found.append(Checksum.from_base64(algorithm, value.strip(":")))
    found.append(Checksum.from_base64("sha256", headers.get("x-amz-checksum-sha256")))
    found.append(Checksum.from_base64("md5", headers.get("x-ms-blob-content-md5")))
    if is_whole:
        # Of the body, so of a part where a part was asked for.
        found.append(Checksum.from_base64("md5", headers.get("Content-MD5")))
    is_plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    is_s3 = "x-amz-request-id" in headers
    if is_s3 and is_plain and "x-amz-server-side-encryption-customer-algorithm" not in headers:
        found.append(Checksum.from_md5_etag(headers.get("ETag")))
    return strongest(found)


def _all(headers: Any, name: str) -> list[str]:
    return [item for value in headers.get_all(name, []) for item in value.split(",")]


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
