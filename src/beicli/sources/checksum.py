"""Checksums as stores give them, computed while the bytes go by."""

import base64
import binascii
import hashlib
import zlib
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Protocol

Algorithm = Literal["sha256", "sha512", "sha1", "md5", "crc32c", "crc32"]
# Strongest first.
_ALGORITHMS: tuple[Algorithm, ...] = ("sha256", "sha512", "sha1", "md5", "crc32c", "crc32")
_LENGTHS = {"sha256": 32, "sha512": 64, "sha1": 20, "md5": 16, "crc32c": 4, "crc32": 4}


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of a file must come to."""

    algorithm: Algorithm
    digest: bytes

    @classmethod
    def from_base64(cls, algorithm: Algorithm, text: object) -> "Checksum | None":
        """Read a checksum as headers carry it; None if it is absent or malformed."""
        if isinstance(text, bytes | bytearray):
            digest = bytes(text)
        elif isinstance(text, str):
            try:
                digest = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                return None
        else:
            return None
        return cls(algorithm, digest) if len(digest) == _LENGTHS[algorithm] else None

    @classmethod
    def from_md5_etag(cls, etag: object) -> "Checksum | None":
        """Read an ETag that is the content's MD5; one with parts (`…-7`) is not."""
        text = etag.strip('"') if isinstance(etag, str) else ""
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            return None
        return cls("md5", digest) if len(digest) == _LENGTHS["md5"] else None


def strongest(checksums: list[Checksum | None]) -> Checksum | None:
    """Return the strongest checksum that can be computed here."""
    known = [one for one in checksums if one is not None and _is_computable(one.algorithm)]
    return min(known, key=lambda one: _ALGORITHMS.index(one.algorithm), default=None)


class Digest:
    """The sha256 of a file, and the checksum its store gives, while it is written."""

    def __init__(self, expected: Checksum | None) -> None:
        self._expected = expected
        self._sha256 = hashlib.sha256()
        self._hash = None if expected is None else _start(expected.algorithm)

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._hash is not None:
            self._hash.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def is_as_expected(self) -> bool:
        """Whether the bytes so far come to the expected checksum; True if none is known."""
        if self._expected is None or self._hash is None:
            return True
        return self._hash.digest() == self._expected.digest


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _start(algorithm: Algorithm) -> _Hash:
    if algorithm == "crc32":
        return _Crc32()
    if algorithm == "crc32c":
        checksum: Any = import_module("google_crc32c").Checksum()
        return checksum  # type: ignore[no-any-return] # the package has no types
    return hashlib.new(algorithm, usedforsecurity=False)


def _is_computable(algorithm: Algorithm) -> bool:
    # It comes with the extra `gcs`, whose store gives it.
    return algorithm != "crc32c" or find_spec("google_crc32c") is not None
