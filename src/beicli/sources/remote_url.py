"""Checkpoints behind an HTTP address: a tar.gz, fetched, unpacked safely, and kept in the cache."""

import hashlib
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from beicli.config.schema import CheckpointRepository
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.sources.archive import ArchiveLimits, Unpacked, unpack
from beicli.sources.bucket import check_pin
from beicli.sources.cache import CachePlace, Contents, Entry, explain_disk
from beicli.sources.http_answer import RemoteState
from beicli.sources.http_download import Download

# Smaller archives are fetched whole to look into them: the build will want the rest as well.
_MAX_LOOK_BYTES = 512 * 2**20
# Parts of a query that sign it; they change from one presigned address to the next.
_SIGNATURE_KEYS = frozenset(
    [
        "sig",
        "se",
        "sp",
        "sv",
        "sr",
        "st",
        "spr",
        "ske",
        "skoid",
        "sks",
        "skt",
        "sktid",
        "skv",
        "sip",
        "signature",
        "expires",
        "policy",
        "key-pair-id",
        "awsaccesskeyid",
        "googleaccessid",
        "token",
        "access_token",
        "response-content-disposition",
    ]
)
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "q-")


def place_of_url(repository: CheckpointRepository) -> CachePlace:
    """Return where copies of this archive are kept; raises CheckpointError if it is no address."""
    try:
        parts = urlsplit(repository.repo)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CheckpointError(
            "`repo` of a REMOTE_URL checkpoint is not an address that begins with `https://` or"
            " `http://`",
            hint="name the address of a tar.gz; for a bucket set `source: S3`, `GCS` or `AZURE`",
        )
    kept = [
        pair for pair in parts.query.split("&") if not _is_signature(pair.split("=", 1)[0].lower())
    ]
    return CachePlace.of(repository, told_apart_by="&".join(kept))


def fetch_from_url(
    repository: CheckpointRepository,
    place: CachePlace,
    *,
    pin: str | None,
    limits: ArchiveLimits = ArchiveLimits(),  # noqa: B008 - frozen
) -> Entry:
    """Return the copy of the archive that is there now, fetched and unpacked if need be.

    pin: the sha256 it must have, if the configuration names one.
    """
    download = Download(repository.repo)
    state = download.probe()
    entry = _find(place, state)
    if entry is None:
        with place.locked():
            try:
                entry = _find(place, state) or _fetch(download, state, place, limits)
            except OSError as error:
                raise explain_disk(error, place) or error from None
    check_pin(place, entry.contents.resolved_revision, pin)
    return entry


def look_into_url(repository: CheckpointRepository, place: CachePlace, *, pin: str | None) -> Entry:
    """Return a copy of an archive that is small or here already; a large one is refused."""
    state = Download(repository.repo).probe()
    entry = _find(place, state)
    if entry is not None:
        check_pin(place, entry.contents.resolved_revision, pin)
        return entry
    if state.size_bytes is None or state.size_bytes > _MAX_LOOK_BYTES:
        size = (
            "of unknown size" if state.size_bytes is None else f"{state.size_bytes / 1e9:,.1f} GB"
        )
        raise CheckpointUnavailableError(
            f"`{place.repo}` is an archive ({size}), which cannot be looked into without fetching"
            " all of it",
            hint="`bei build` fetches it into the cache; after that it can be looked into",
        )
    return fetch_from_url(repository, place, pin=pin)


def _find(place: CachePlace, state: RemoteState) -> Entry | None:
    return place.find(_key(state)) if state.is_known else None


def _fetch(
    download: Download, state: RemoteState, place: CachePlace, limits: ArchiveLimits
) -> Entry:
    staging = place.staging(_key(state) if state.is_known else "unnamed")
    archive = staging / "archive.tar.gz"
    downloaded = download.fetch(archive, state)
    # Without a word of the server's the content itself is the name.
    key = _key(state) if state.is_known else downloaded.sha256
    entry = place.find(key)
    if entry is not None:
        shutil.rmtree(staging)
        return entry
    try:
        unpacked = _unpack(download, staging, limits)
    except CheckpointError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _move_up(unpacked.root, staging)
    for leftover in (archive, archive.with_suffix(".json")):
        leftover.unlink()
    contents = Contents(
        resolved_revision=downloaded.sha256, kept=unpacked.kept, sizes=unpacked.sizes
    )
    return place.publish(staging, key, contents)


def _unpack(download: Download, staging: Path, limits: ArchiveLimits) -> Unpacked:
    # What an earlier attempt unpacked is not trusted to be whole.
    shutil.rmtree(staging / "files")
    (staging / "files").mkdir()
    archive = staging / "archive.tar.gz"
    unpacked = unpack(archive, staging / "files", limits=limits, place=download.shown)
    if "config.json" not in unpacked.kept:
        found = ", ".join(f"`{name}`" for name in sorted(unpacked.sizes)[:3]) or "nothing"
        raise CheckpointError(
            f"the archive `{download.shown}` has no `config.json` at its root; found {found}",
            hint="pack the folder's content: `tar -czf model.tar.gz -C FOLDER .`",
        )
    return unpacked


def _move_up(root: Path, staging: Path) -> None:
    """Make the checkpoint's root `files`, if the archive had a folder around it."""
    if root != staging / "files":
        root.rename(staging / "inner")
        shutil.rmtree(staging / "files")
        (staging / "inner").rename(staging / "files")


def _key(state: RemoteState) -> str:
    text = "\0".join((state.etag, state.last_modified, str(state.size_bytes)))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_signature(key: str) -> bool:
    return key in _SIGNATURE_KEYS or key.startswith(_SIGNATURE_PREFIXES)
