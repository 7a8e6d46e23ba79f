"""What an answer over HTTP says of a file: its size, its version and its checksum."""

import re
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPResponse
from typing import Any

from beicli.sources.checksum import Checksum, strongest

PARTIAL = 206
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


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

    def contradicts(self, other: "RemoteState") -> bool:
        """Whether both cannot be of the same content; an answer may leave out what another said."""
        if None not in {self.size_bytes, other.size_bytes} and self.size_bytes != other.size_bytes:
            return True
        if self.etag.startswith('"') and other.etag.startswith('"'):
            return self.etag != other.etag
        both_dated = self.last_modified and other.last_modified
        return bool(both_dated) and self.last_modified != other.last_modified


def state_in(response: HTTPResponse) -> RemoteState:
    """Read what an answer says of the file, whole or a part of it."""
    size: int | None = None
    if response.status == PARTIAL:
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


def range_start(response: HTTPResponse) -> int | None:
    """Return the offset of the part that an answer holds; None if it says none."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return int(found[1]) if found else None


def promised_checksum(headers: Message, *, is_whole: bool) -> Checksum | None:
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
