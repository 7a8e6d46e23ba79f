"""The checkpoints on this disk, each under what it is a copy of.

    checkpoints/s3-tiny-bert-4f0c…/       one place: a source and a repo
        .lock                             held by whoever fetches
        <key>/entry.json, files/…         complete; the key is a hash of the remote's identity
        <key>.metadata/…                  the small files only
        <key>.partial/…                   being fetched, or left by a fetch that was broken off

An entry is renamed into place when complete, and never changed after.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.model.weights import check_weights
from beicli.sources.fetched import Checkpoint, CheckpointFiles

_logger = logging.getLogger(__name__)
_ENTRY_NAME = "entry.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an entry holds.

    kept: size and sha256 of each file here. sizes: bytes of each file of the checkpoint, here or
    not. headers: safetensors files of which only the header is here.
    """

    resolved_revision: str
    kept: Mapping[str, tuple[int, str]]
    sizes: Mapping[str, int]
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished copy."""

    directory: Path
    contents: Contents

    @property
    def files(self) -> Path:
        return self.directory / "files"

    def checkpoint(self) -> Checkpoint:
        """Return it whole; raises CheckpointError if it has no weights that are built from."""
        # By the names of all there was: what is refused was not kept.
        check_weights(self.files, self.contents.sizes)
        return Checkpoint(self.files, self.contents.resolved_revision)

    def checkpoint_files(self) -> CheckpointFiles:
        weights = [name for name in self.contents.kept if name.endswith(".safetensors")]
        headers = {name: self.files / name for name in weights}
        headers |= {name: self.directory / "headers" / name for name in self.contents.headers}
        return CheckpointFiles(
            path=self.files,
            sizes=self.contents.sizes,
            headers=headers,
            resolved_revision=self.contents.resolved_revision,
        )


@dataclass(frozen=True, slots=True)
class CachePlace:
    """Every copy of one place.

    repo: as it may be shown. directory: where they are.
    """

    repo: str
    directory: Path = field(repr=False)

    @classmethod
    def of(cls, repository: CheckpointRepository, *, told_apart_by: str = "") -> "CachePlace":
        """Return the place of `repository`.

        told_apart_by: what belongs to its identity besides the name that may be shown.
        """
        repo = public_repo(repository.repo).rstrip("/")
        identity = f"{repository.source.value}\0{repo}\0{told_apart_by}"
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", repo.rsplit("/", 1)[-1])[:40].strip(".-")
        digest = hashlib.sha256(identity.encode()).hexdigest()[:20]
        name = f"{repository.source.value.lower()}-{label}-{digest}"
        return cls(repo, cache_directory() / name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this place; whoever comes second waits, and then finds the first one's copy.

        So look for a copy before, and once more inside.
        """
        with _explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.directory / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            with _explained(self.directory):
                self._wait_for(lock)
            yield
        finally:
            os.close(lock)

    def _wait_for(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.warning("another process is fetching `%s`; waiting until it is done", self.repo)
            fcntl.flock(lock, fcntl.LOCK_EX)

    def find(self, key: str) -> Entry | None:
        """Return the complete copy of this key, None if there is none or it was damaged."""
        return _load(self.directory / key)

    def find_metadata(self, key: str) -> Entry | None:
        """Return a copy of this key that has at least the small files."""
        return self.find(key) or _load(self.directory / f"{key}.metadata")

    def latest(self, *, metadata: bool = False, revision: str | None = None) -> Entry | None:
        """Return the copy that was used last; with `metadata`, one of the small files will do."""
        if not self.directory.is_dir():
            return None
        candidates = [
            path
            for path in self.directory.iterdir()
            if path.suffix == "" or (metadata and path.suffix == ".metadata")
        ]
        for directory in sorted(candidates, key=_used_at, reverse=True):
            entry = _load(directory)
            if entry and revision in {None, entry.contents.resolved_revision}:
                return entry
        return None

    def staging(self, key: str, *, metadata: bool = False) -> Path:
        """Return the folder to fill for this key, as an earlier fetch left it; hold the lock."""
        staging = self.directory / (f"{key}.metadata.partial" if metadata else f"{key}.partial")
        with _explained(self.directory):
            (staging / "files").mkdir(parents=True, exist_ok=True)
        return staging

    def publish(self, staging: Path, key: str, contents: Contents) -> Entry:
        """Rename what was staged into place as this key, and remove what others left.

        There must be no sound copy of the key: what is published is never changed.
        """
        metadata = staging.name.endswith(".metadata.partial")
        target = self.directory / (f"{key}.metadata" if metadata else key)
        with _explained(self.directory):
            (staging / _ENTRY_NAME).write_text(_dump(self.repo, contents), encoding="utf-8")
            # A name must not outlive its content when the power fails.
            for path in (*staging.rglob("*"), staging):
                _write_through(path)
            # One that is damaged; a sound one would have been found.
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
            _write_through(self.directory)
        # The small files must not cost the half of the large ones that is already here.
        for path in [] if metadata else self.directory.glob("*.partial"):
            shutil.rmtree(path, ignore_errors=True)
        return Entry(target, contents)

    def require_latest(self, *, metadata: bool = False, revision: str | None = None) -> Entry:
        """Return the copy that was used last; raises CheckpointUnavailableError if there
        is none.
        """
        entry = self.latest(metadata=metadata, revision=revision)
        if entry is None:
            which = f" at `{revision}`" if revision else ""
            raise CheckpointUnavailableError(
                f"`{self.repo}`{which} is not in the local cache, and `--offline` forbids"
                " fetching it",
                hint="run once without `--offline`, or point BEI_CACHE at a cache that has it",
            )
        return entry


def cache_directory() -> Path:
    """Return the folder of all copies: BEI_CACHE, else beicli in XDG_CACHE_HOME or ~/.cache."""
    setting = os.environ.get("BEI_CACHE")
    if setting:
        return Path(setting).expanduser().absolute() / "checkpoints"
    base = os.environ.get("XDG_CACHE_HOME")
    # The specification of that variable says to ignore what is relative.
    home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return home / "beicli" / "checkpoints"


def check_free_space(directory: Path, wanted_bytes: int) -> None:
    """Raise CheckpointError if the disk has less room than that."""
    free = shutil.disk_usage(directory).free
    if wanted_bytes > free:
        raise CheckpointError(
            f"the checkpoint needs {wanted_bytes / 1e9:,.1f} GB, and `{directory}` has"
            f" {free / 1e9:,.1f} GB left",
            hint="make room, or point BEI_CACHE at a larger disk",
        )


def explain_disk(error: Exception, place: CachePlace) -> CheckpointError | None:
    """Put into words why this disk stopped a fetch; None if the error came from elsewhere."""
    if not isinstance(error, OSError):
        return None
    is_in_cache = str(error.filename or "").startswith(str(place.directory))
    if not is_in_cache and error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return None
    return CheckpointError(
        f"the cache `{place.directory}` cannot be written: {error.strerror}",
        hint="make room, or point BEI_CACHE at a folder that can",
    )


def _used_at(directory: Path) -> float:
    try:
        return (directory / _ENTRY_NAME).stat().st_mtime
    except OSError:
        return 0.0


def _write_through(path: Path) -> None:
    """Have the disk keep what was written so far to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(directory: Path) -> Entry | None:
    """Read an entry and see that its files are there in full; note that it was used."""
    try:
        contents = _parse(json.loads((directory / _ENTRY_NAME).read_text(encoding="utf-8")))
        for name, (size_bytes, _) in contents.kept.items():
            if (directory / "files" / name).stat().st_size != size_bytes:
                return None
        if not all((directory / "headers" / name).is_file() for name in contents.headers):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # A cache that is only read keeps no order.
    with suppress(OSError):
        os.utime(directory / _ENTRY_NAME)
    return Entry(directory, contents)


def _dump(repo: str, contents: Contents) -> str:
    kept = {
        name: {"size_bytes": size_bytes, "sha256": sha256}
        for name, (size_bytes, sha256) in contents.kept.items()
    }
    values = {
        "format": _FORMAT,
        "repo": repo,
        "resolved_revision": contents.resolved_revision,
        "files": kept,
        "sizes": dict(contents.sizes),
        "headers": list(contents.headers),
    }
    return json.dumps(values, indent=2, sort_keys=True)


def _parse(values: Any) -> Contents:
    if values["format"] != _FORMAT:
        raise ValueError(values["format"])
    return Contents(
        resolved_revision=str(values["resolved_revision"]),
        kept={
            name: (int(file["size_bytes"]), str(file["sha256"]))
            for name, file in values["files"].items()
        },
        sizes={name: int(size) for name, size in values["sizes"].items()},
        headers=tuple(values["headers"]),
    )


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the cache `{directory}` cannot be written: {error.strerror}",
            hint="point BEI_CACHE at a folder that can",
        ) from error
