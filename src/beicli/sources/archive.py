"""Unpacks a tar.gz that nobody vouches for, keeping only what a build reads.

Everything is refused that could write elsewhere or stand for more than it is: absolute paths,
`..`, links, devices, sparse files, and archives that grow beyond the limits. Memory stays small
whatever the archive claims, which Python's own `tarfile` does not promise.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from beicli.errors import CheckpointError
from beicli.sources.checksum import Digest
from beicli.sources.files import check_name, is_readable_kind, wanted_names

_BLOCK_BYTES = 512
_READ_BYTES = 2**18
_MAX_EXTENSION_BYTES = 2**20
_MAX_DIGITS = 18
_REGULAR = {b"0", b"\0", b"7"}
_FOLDER = b"5"
# Extensions whose content is the long form of the next entry's header.
_PAX, _GNU_NAME = b"x", b"L"
_EXTENSIONS = {_PAX, b"g", _GNU_NAME, b"K"}
_REFUSED = {b"1": "a hard link", b"2": "a link", b"3": "a device", b"4": "a device"}
_REFUSED |= {b"6": "a pipe", b"S": "a sparse file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """What an archive may come to.

    max_ratio: unpacked bytes to packed ones, once more than `min_ratio_bytes` are unpacked: text
    packs well, but only what was made for it packs a hundredfold at length.
    """

    max_entries: int = 10_000
    max_unpacked_bytes: int = 512 * 2**30
    max_ratio: int = 100
    min_ratio_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What an archive held.

    kept: size and sha256 by name, relative to the checkpoint's root. sizes: bytes of every file
    whose name can be shown.
    """

    root: Path
    kept: dict[str, tuple[int, str]]
    sizes: dict[str, int]


def unpack(archive: Path, directory: Path, *, limits: ArchiveLimits, place: str) -> Unpacked:
    """Unpack what a build reads into `directory`, which must be empty.

    place: where the archive is from, for messages. One folder around all files is looked through.
    Raises CheckpointError if the archive is cut off, damaged or hostile.
    """
    kept: dict[str, tuple[int, str]] = {}
    sizes: dict[str, int] = {}
    with archive.open("rb") as file:
        stream = _GzipStream(file, limits, f"the archive `{place}`")
        for name, size_bytes in _entries(stream, limits):
            if name in sizes:
                raise stream.refusal(f"holds `{name}` twice")
            sizes[name] = size_bytes
            pieces = stream.entry(size_bytes)
            if is_readable_kind(name):
                kept[name] = (size_bytes, _write(directory, name, pieces, stream))
            else:
                # Read past: it may not be kept, but the rest lies behind it.
                for _ in pieces:
                    pass
        stream.read_to_end()
    top = _folder_around(sizes)
    wanted = wanted_names(name.removeprefix(top) for name in sizes)
    for name in list(kept):
        if name.removeprefix(top) not in wanted:
            (directory / name).unlink()
            del kept[name]
    return Unpacked(
        root=directory / top,
        kept={name.removeprefix(top): value for name, value in kept.items()},
        sizes={
            name.removeprefix(top): value for name, value in sizes.items() if name.isprintable()
        },
    )


def _folder_around(sizes: dict[str, int]) -> str:
    """Return the one folder that everything lies in, with a slash, or nothing."""
    # What some packers add on the side lies beside that folder.
    visible = [name for name in sizes if not _is_hidden(name)]
    tops = {name.split("/", 1)[0] for name in visible}
    if len(tops) == 1 and all("/" in name for name in visible):
        return f"{tops.pop()}/"
    return ""


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _write(directory: Path, name: str, pieces: Iterator[bytes], stream: "_GzipStream") -> str:
    path = directory / name
    digest = Digest(None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as output:
            for piece in pieces:
                digest.update(piece)
                output.write(piece)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise stream.refusal(f"holds `{name}` as a file and as a folder") from None
    return digest.sha256


class _GzipStream:
    """Reads a gzip file piece by piece, and stops where the limits are passed."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits, name: str) -> None:
        self._packed = file
        self._file = gzip.GzipFile(fileobj=file, mode="rb")
        self._limits = limits
        self.name = name
        self.num_bytes = 0

    def refusal(self, what: str) -> CheckpointError:
        """Return the error that says what is wrong with the archive."""
        return CheckpointError(
            f"{self.name} {what}",
            hint="pack the checkpoint's own files, with links followed:"
            " `tar --dereference -czf model.tar.gz -C FOLDER .`",
        )

    def entry(self, size_bytes: int) -> Iterator[bytes]:
        """Yield the content of an entry in pieces, and read past what fills its last block."""
        padding = -size_bytes % _BLOCK_BYTES
        while size_bytes > 0:
            piece = self.read(min(size_bytes, _READ_BYTES))
            size_bytes -= len(piece)
            yield piece
        self.read(padding)

    def read(self, size_bytes: int) -> bytes:
        """Return exactly so many bytes; raises CheckpointError if there are fewer."""
        data = self._read(size_bytes)
        if len(data) < size_bytes:
            raise self.refusal("is cut off in the middle")
        return data

    def read_to_end(self) -> None:
        """Read what is left, so that gzip's own checksum is verified."""
        while self._read(_READ_BYTES):
            pass

    def _read(self, size_bytes: int) -> bytes:
        try:
            data = self._file.read(size_bytes)
        except EOFError:
            raise self.refusal("is cut off in the middle") from None
        except gzip.BadGzipFile:
            is_start = self.num_bytes == 0
            raise self.refusal("is no tar.gz file" if is_start else "is damaged") from None
        except zlib.error:
            raise self.refusal("is damaged") from None
        self.num_bytes += len(data)
        limits = self._limits
        if self.num_bytes > limits.max_unpacked_bytes:
            most = limits.max_unpacked_bytes / 1e9
            raise self.refusal(f"unpacks to more than {most:,.1f} GB")
        is_long = self.num_bytes > limits.min_ratio_bytes
        if is_long and self.num_bytes > limits.max_ratio * self._packed.tell():
            raise self.refusal(f"unpacks to more than {limits.max_ratio} times its size")
        return data


def _entries(stream: _GzipStream, limits: ArchiveLimits) -> Iterator[tuple[str, int]]:
    """Yield name and size of each file; its content must be read before the next one is asked."""
    name: str | None = None
    size_bytes: int | None = None
    for _ in range(limits.max_entries):
        block = stream.read(_BLOCK_BYTES)
        if not any(block):
            return
        header = _header(block, stream)
        if header.type in _EXTENSIONS:
            new_name, new_size_bytes = _extended(header, stream)
            name = name if new_name is None else new_name
            size_bytes = size_bytes if new_size_bytes is None else new_size_bytes
            continue
        shown, name = name or header.name, None
        length, size_bytes = header.size if size_bytes is None else size_bytes, None
        if header.type == _FOLDER:
            _check_folder(shown, stream)
        else:
            _check_regular(header, shown, length, stream)
            yield check_name(shown, where=stream.name), length
    raise stream.refusal(f"holds more than {limits.max_entries:,} entries")


def _header(block: bytes, stream: _GzipStream) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        is_start = stream.num_bytes <= _BLOCK_BYTES
        raise stream.refusal("is no tar.gz file" if is_start else "is damaged") from None


def _check_regular(
    header: tarfile.TarInfo, name: str, size_bytes: int, stream: _GzipStream
) -> None:
    if header.type in _REFUSED:
        raise stream.refusal(f"holds {_REFUSED[header.type]}, `{name[:200]!a}`")
    if header.type not in _REGULAR or size_bytes < 0:
        raise stream.refusal(f"holds an entry that is no file, `{name[:200]!a}`")


def _extended(header: tarfile.TarInfo, stream: _GzipStream) -> tuple[str | None, int | None]:
    """Return name and size that this entry gives to the next one, None where it says nothing."""
    content = _extension(header, stream)
    if header.type == _GNU_NAME:
        return content.rstrip(b"\0").decode("utf-8", "replace"), None
    if header.type != _PAX:
        return None, None
    records = _pax_records(content, stream)
    name = records[b"path"].decode("utf-8", "replace") if b"path" in records else None
    return name, _pax_size(records[b"size"], stream) if b"size" in records else None


def _extension(header: tarfile.TarInfo, stream: _GzipStream) -> bytes:
    if not 0 <= header.size <= _MAX_EXTENSION_BYTES:
        raise stream.refusal("has a header that is too long")
    return b"".join(stream.entry(header.size))


def _check_folder(name: str, stream: _GzipStream) -> None:
    # The root itself is often an entry of its own.
    if name not in {"", ".", "./"}:
        check_name(name, where=stream.name)


def _pax_records(content: bytes, stream: _GzipStream) -> dict[bytes, bytes]:
    """Return the records of a pax header; sparse files, which it can describe, are refused."""
    records = {}
    while content:
        length_text, _, _ = content.partition(b" ")
        is_number = length_text.isdigit() and len(length_text) <= _MAX_DIGITS
        length = int(length_text) if is_number else 0
        record, content = content[len(length_text) + 1 : length], content[length:]
        key, separator, value = record.removesuffix(b"\n").partition(b"=")
        if not separator:
            raise stream.refusal("is damaged")
        if key.startswith(b"GNU.sparse"):
            raise stream.refusal(f"holds {_REFUSED[b'S']}")
        records[key] = value
    return records


def _pax_size(value: bytes, stream: _GzipStream) -> int:
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise stream.refusal("is damaged")
    return int(value)
