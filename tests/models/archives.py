"""Unpack the named files of a wheel, a tarball or a Debian package, and nothing else."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tests.models.errors import ArchiveError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_SIZE_BYTES = 60


@dataclass(frozen=True, slots=True)
class _Contents:
    """An open archive: the path of every entry, and how to read one of them."""

    names: frozenset[str]
    open: Callable[[str], IO[bytes]]


def unpack(archive: Path, *, root: str, members: Sequence[str], destination: Path) -> None:
    """Write each of `members`, paths below `root` in the archive, to that path in `destination`.

    Raises ArchiveError before anything is written if a member is missing, or if any entry of the
    archive, named or not, has a path that would leave its folder.
    """
    with _read(archive) as contents:
        _refuse_escaping_paths(contents.names, archive)
        sources = {member: f"{root}/{member}" for member in members}
        if missing := sorted(set(sources.values()) - contents.names):
            raise ArchiveError(
                f"`{archive.name}` lacks {', '.join(missing)}",
                hint="name only files it holds in `tests/models/packages.py`",
            )
        for member, source in sources.items():
            target = destination / member
            target.parent.mkdir(parents=True, exist_ok=True)
            with contents.open(source) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, length=1 << 20)


def _refuse_escaping_paths(names: Iterable[str], archive: Path) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ArchiveError(
                f"`{archive.name}` holds `{name}`, a path outside its own folder",
                hint="do not unpack this file by other means either",
            )


def _read(archive: Path) -> AbstractContextManager[_Contents]:
    if archive.suffix == ".whl":
        return _read_zip(archive)
    if archive.suffix == ".deb":
        return _read_tar(io.BytesIO(_debian_payload(archive)))
    return _read_tar(archive.open("rb"))


@contextmanager
def _read_zip(archive: Path) -> Iterator[_Contents]:
    with zipfile.ZipFile(archive) as opened:
        yield _Contents(frozenset(opened.namelist()), opened.open)


@contextmanager
def _read_tar(stream: IO[bytes]) -> Iterator[_Contents]:
    def open_file(name: str) -> IO[bytes]:
        # A link is not followed: it could point to any other entry.
        file = opened.extractfile(name) if opened.getmember(name).isfile() else None
        if file is None:
            raise ArchiveError(f"`{name}` is not a plain file in its archive")
        return file

    with stream, tarfile.open(fileobj=stream) as opened:
        yield _Contents(frozenset(opened.getnames()), open_file)


def _debian_payload(archive: Path) -> bytes:
    """The compressed tar inside a Debian package, itself an `ar` archive of three files."""
    content = archive.read_bytes()
    position = len(_AR_MAGIC)
    while content.startswith(_AR_MAGIC) and position < len(content):
        header = content[position : position + _AR_HEADER_SIZE_BYTES]
        name, size_bytes = header[:16].decode("ascii").rstrip(" /"), int(header[48:58])
        position += _AR_HEADER_SIZE_BYTES
        if name.startswith("data.tar"):
            return content[position : position + size_bytes]
        position += size_bytes + size_bytes % 2
    raise ArchiveError(f"`{archive.name}` is not a Debian package with a data.tar inside")
