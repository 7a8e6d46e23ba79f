"""Checkpoints in object stores: listed, fetched in pieces, checked, and kept in the cache.

What is the same for every store; `s3.py`, `gcs.py` and `azure.py` open theirs.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from beicli.errors import BeiError, CheckpointError
from beicli.sources.cache import CachePlace, Contents, Entry, check_free_space, explain_disk
from beicli.sources.checksum import Checksum, Digest
from beicli.sources.files import (
    HEADER_PREFIX_BYTES,
    RemoteFile,
    header_length,
    is_wanted,
    is_weights,
    small_files,
    wanted_names,
)

_PIECE_BYTES = 16 * 2**20
# Pieces on their way at once; one connection alone leaves most of a network idle.
_NUM_PIECES_AHEAD = 4
_MAX_FILES = 2_000


class Bucket(Protocol):
    """A folder in an object store; a call raises whatever its library raises."""

    def list_files(self) -> list[RemoteFile]:
        """Return every file below the folder."""

    def read(self, file: RemoteFile, start: int, end: int) -> Future[bytes]:
        """Begin to read the bytes from `start` up to but without `end`; it can be cancelled."""

    def checksum(self, file: RemoteFile) -> Checksum | None:
        """Return the strongest checksum the store gives of the file's content."""

    def explain(self, error: Exception) -> CheckpointError:
        """Put into words what the library raised, without the credentials."""


def fetch_from_bucket(bucket: Bucket, place: CachePlace, *, pin: str | None) -> Entry:
    """Return the copy of what the bucket holds now, fetched if need be.

    pin: the identity it must have, if the configuration names one.
    """
    with _explaining(bucket, place):
        files, revision = _list(bucket, place, pin)
        entry = place.find(revision)
        if entry is not None:
            return entry
        with place.locked():
            return place.find(revision) or _fetch(bucket, place, files, revision)


def look_into_bucket(bucket: Bucket, place: CachePlace, *, pin: str | None) -> Entry:
    """Return a copy of the small files, and of the headers of the weights."""
    with _explaining(bucket, place):
        files, revision = _list(bucket, place, pin)
        entry = place.find_metadata(revision)
        if entry is not None:
            return entry
        with place.locked():
            return place.find_metadata(revision) or _look(bucket, place, files, revision)


def _fetch(bucket: Bucket, place: CachePlace, files: list[RemoteFile], revision: str) -> Entry:
    staging = place.staging(revision)
    wanted = _wanted(files)
    _check_space(staging, wanted)
    kept = {file.name: _download(bucket, file, staging / "files") for file in wanted}
    _check_unchanged(bucket, place, revision)
    sizes = {file.name: file.size_bytes for file in files}
    contents = Contents(resolved_revision=revision, kept=kept, sizes=sizes)
    return place.publish(staging, revision, contents)


def _look(bucket: Bucket, place: CachePlace, files: list[RemoteFile], revision: str) -> Entry:
    staging = place.staging(revision, metadata=True)
    kept = {file.name: _download(bucket, file, staging / "files") for file in small_files(files)}
    weights = [file for file in files if is_wanted(file.name) and is_weights(file.name)]
    headers = [file.name for file in weights if _fetch_header(bucket, file, staging / "headers")]
    contents = Contents(
        resolved_revision=revision,
        kept=kept,
        sizes={file.name: file.size_bytes for file in files},
        headers=tuple(headers),
    )
    return place.publish(staging, revision, contents)


def identity_of(files: list[RemoteFile]) -> str:
    """Return a sha256 over names, sizes and versions of the files a build reads."""
    lines = sorted(f"{file.name}\0{file.size_bytes}\0{file.version}\n" for file in _wanted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _wanted(files: list[RemoteFile]) -> list[RemoteFile]:
    """Return the files that a build reads."""
    names = wanted_names(file.name for file in files)
    return [file for file in files if file.name in names]


def check_pin(place: CachePlace, revision: str, pin: str | None) -> None:
    """Raise CheckpointError if the configuration asks for another content."""
    if pin not in {None, revision}:
        raise CheckpointError(
            f"`{place.repo}` is now at `{revision}`; the configuration pins `{pin}`",
            hint="set `revision` to the new one, or remove it to take what is there",
        )


def _list(bucket: Bucket, place: CachePlace, pin: str | None) -> tuple[list[RemoteFile], str]:
    files = bucket.list_files()
    names = sorted(file.name for file in files)
    if not names:
        raise CheckpointError(
            f"`{place.repo}` does not exist, or holds no files",
            hint="check the bucket and the path in `repo`",
        )
    if "config.json" not in names:
        found = ", ".join(f"`{name}`" for name in names[:3]) + (" …" if names[3:] else "")
        raise CheckpointError(
            f"`{place.repo}` has no `config.json`; found {found}",
            hint="`repo` must lead to the folder whose root holds the checkpoint's files",
        )
    if len(wanted_names(names)) > _MAX_FILES:
        raise CheckpointError(f"`{place.repo}` holds more than {_MAX_FILES:,} files")
    revision = identity_of(files)
    check_pin(place, revision, pin)
    return files, revision


def _check_space(staging: Path, wanted: list[RemoteFile]) -> None:
    here = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    check_free_space(staging, sum(file.size_bytes for file in wanted) - here)


def _check_unchanged(bucket: Bucket, place: CachePlace, revision: str) -> None:
    if identity_of(bucket.list_files()) != revision:
        raise CheckpointError(
            f"`{place.repo}` was changed while it was fetched",
            hint="run again when whoever writes there is done",
        )


def _download(bucket: Bucket, file: RemoteFile, directory: Path) -> tuple[int, str]:
    """Fetch a file, or the rest of it, and return its size and sha256."""
    path = directory / file.name
    checksum = bucket.checksum(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if checksum is None:
        # Nothing would show that what an earlier fetch left is not what it wrote.
        path.unlink(missing_ok=True)
    is_resumed = path.exists() and path.stat().st_size > 0
    digest = _fill(bucket, file, path, Digest(checksum))
    if digest is None and is_resumed:
        # What was here already may be what is wrong.
        path.unlink()
        digest = _fill(bucket, file, path, Digest(checksum))
    if digest is None:
        path.unlink()
        raise CheckpointError(
            f"`{file.name}` arrived damaged: its {file.size_bytes:,} bytes do not match the"
            " checksum the store gives",
            hint="run again; if it stays so, upload the file again",
        )
    return file.size_bytes, digest.sha256


def _fill(bucket: Bucket, file: RemoteFile, path: Path, digest: Digest) -> Digest | None:
    """Append what is missing; None if the content is not what the store says."""
    with path.open("a+b") as output:
        if output.tell() > file.size_bytes:
            output.truncate(0)
        output.seek(0)
        _hash(output, digest)
        for piece in _pieces(bucket, file, output.tell()):
            digest.update(piece)
            output.write(piece)
        return digest if digest.is_as_expected else None


def _hash(file: BinaryIO, digest: Digest) -> None:
    while piece := file.read(2**20):
        digest.update(piece)


def _pieces(bucket: Bucket, file: RemoteFile, start: int) -> Iterator[bytes]:
    """Read a file from `start` on, a few pieces ahead, in order."""
    starts = iter(range(start, file.size_bytes, _PIECE_BYTES))
    ahead: deque[tuple[int, Future[bytes]]] = deque()
    try:
        while True:
            while len(ahead) < _NUM_PIECES_AHEAD and (at := next(starts, None)) is not None:
                end = min(at + _PIECE_BYTES, file.size_bytes)
                ahead.append((end - at, bucket.read(file, at, end)))
            if not ahead:
                return
            # Stays in the queue until it is here, so that it is called off with the others.
            length, reading = ahead[0]
            piece = reading.result()
            ahead.popleft()
            if len(piece) != length:
                raise CheckpointError(
                    f"`{file.name}` is not {file.size_bytes:,} bytes long, as the store said",
                    hint="run again when whoever writes there is done",
                )
            yield piece
    finally:
        # An error, or a keyboard interrupt, must not wait for a store that is silent.
        for _, reading in ahead:
            reading.cancel()


def _fetch_header(bucket: Bucket, file: RemoteFile, directory: Path) -> bool:
    """Keep the header of a safetensors file; False if it is no such file."""
    prefix = bucket.read(file, 0, min(HEADER_PREFIX_BYTES, file.size_bytes)).result()
    length = header_length(prefix)
    if length is None or length > file.size_bytes:
        return False
    if length > len(prefix):
        prefix += bucket.read(file, len(prefix), length).result()
    path = directory / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(prefix[:length])
    return True


@contextmanager
def _explaining(bucket: Bucket, place: CachePlace) -> Iterator[None]:
    try:
        yield
    except BeiError:
        raise
    # The three libraries share no base class.
    except Exception as error:  # noqa: BLE001
        raise explain_disk(error, place) or bucket.explain(error) from None
