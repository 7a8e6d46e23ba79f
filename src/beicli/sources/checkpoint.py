"""Brings a checkpoint onto this disk, or as much of it as says what it is.

Each source has a module of its own, imported when it is asked for: their libraries take seconds,
and most of them are optional.
"""

import re
from pathlib import Path

from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError
from beicli.sources.fetched import Checkpoint, CheckpointFiles
from beicli.sources.files import is_weights, sizes_below

_OBJECT_STORES = {CheckpointSource.S3, CheckpointSource.GCS, CheckpointSource.AZURE}
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def fetch_checkpoint(
    repository: CheckpointRepository, *, config_directory: Path, offline: bool
) -> Checkpoint:
    """Return the checkpoint that `repository` names.

    config_directory: what a relative LOCAL path is relative to.
    offline: take what is elsewhere from the local cache only.
    Raises CheckpointError; CheckpointUnavailableError if it may well exist but not be reached.
    """
    if repository.source is CheckpointSource.LOCAL:
        return Checkpoint(_local(repository, config_directory), None)
    if repository.source is CheckpointSource.HF:
        from beicli.sources.hub import fetch_from_hub  # noqa: PLC0415

        return fetch_from_hub(repository, offline=offline)
    if repository.source is CheckpointSource.REMOTE_URL:
        from beicli.sources.remote_url import fetch_from_url, place_of_url  # noqa: PLC0415

        place = place_of_url(repository)
        if offline:
            return place.require_latest(revision=_pin(repository)).checkpoint()
        return fetch_from_url(repository, place, pin=_pin(repository)).checkpoint()
    if repository.source in _OBJECT_STORES:
        from beicli.sources.bucket import fetch_from_bucket  # noqa: PLC0415
        from beicli.sources.stores import open_store, place_of_store  # noqa: PLC0415

        place = place_of_store(repository)
        if offline:
            return place.require_latest(revision=_pin(repository)).checkpoint()
        with open_store(repository) as bucket:
            return fetch_from_bucket(bucket, place, pin=_pin(repository)).checkpoint()
    raise _of_the_platform(repository)


def look_into_checkpoint(
    repository: CheckpointRepository, *, config_directory: Path, offline: bool
) -> CheckpointFiles:
    """Return the small files of the checkpoint and the sizes of the others; see above."""
    if repository.source is CheckpointSource.LOCAL:
        return _local_files(_local(repository, config_directory))
    if repository.source is CheckpointSource.HF:
        return _look_into_hub(repository, offline=offline)
    if repository.source is CheckpointSource.REMOTE_URL:
        from beicli.sources.remote_url import look_into_url, place_of_url  # noqa: PLC0415

        place = place_of_url(repository)
        if offline:
            return place.require_latest(revision=_pin(repository)).checkpoint_files()
        return look_into_url(repository, place, pin=_pin(repository)).checkpoint_files()
    if repository.source in _OBJECT_STORES:
        from beicli.sources.bucket import look_into_bucket  # noqa: PLC0415
        from beicli.sources.stores import open_store, place_of_store  # noqa: PLC0415

        place = place_of_store(repository)
        if offline:
            entry = place.require_latest(metadata=True, revision=_pin(repository))
            return entry.checkpoint_files()
        with open_store(repository) as bucket:
            entry = look_into_bucket(bucket, place, pin=_pin(repository))
            return entry.checkpoint_files()
    raise _of_the_platform(repository)


def _look_into_hub(repository: CheckpointRepository, *, offline: bool) -> CheckpointFiles:
    from beicli.sources.hub_cache import look_into_cache  # noqa: PLC0415

    found = look_into_cache(repository) if offline else None
    if found is not None:
        return found
    from beicli.sources.hub import look_into_hub  # noqa: PLC0415

    return look_into_hub(repository, offline=offline)


def _pin(repository: CheckpointRepository) -> str | None:
    """Return the sha256 that the configuration names; a branch means nothing outside the hub."""
    revision = repository.revision or ""
    return revision.lower() if _SHA256.fullmatch(revision) else None


def _local(repository: CheckpointRepository, config_directory: Path) -> Path:
    path = repository.local_path(relative_to=config_directory)
    try:
        is_directory, found = path.is_dir(), "is a file" if path.exists() else "does not exist"
    except OSError as error:
        is_directory, found = False, f"cannot be read: {error.strerror}"
    if not is_directory:
        # An address is no path, and may hold a password.
        shown = public_repo(repository.repo)
        shown = str(path) if shown == repository.repo else shown
        raise CheckpointError(
            f"the checkpoint folder `{shown}` {found}",
            hint="`repo` of a LOCAL checkpoint is a path, relative to the configuration file",
        )
    return path


def _local_files(path: Path) -> CheckpointFiles:
    try:
        sizes = sizes_below(path)
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error.strerror}") from error
    headers = {name: path / name for name in sizes if is_weights(name)}
    return CheckpointFiles(path=path, sizes=sizes, headers=headers, resolved_revision=None)


def _of_the_platform(repository: CheckpointRepository) -> CheckpointError:
    return CheckpointError(
        f"checkpoints from `{repository.source}` lie on Baseten's platform, which only its own"
        " builds can read",
        hint="download it with `truss train get_checkpoint_urls`, and name the folder:"
        " `source: LOCAL`, `repo: /path/to/checkpoint`",
    )
