"""Brings a checkpoint onto this disk, or as much of it as says what it is.

Each source has a module of its own, imported when it is asked for: their libraries take seconds,
and most of them are optional.
"""

from pathlib import Path

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError
from beicli.sources.fetched import Checkpoint, CheckpointFiles
from beicli.sources.files import is_weights

_OBJECT_STORES = {CheckpointSource.S3, CheckpointSource.GCS, CheckpointSource.AZURE}


def fetch_checkpoint(
    repository: CheckpointRepository, *, config_directory: Path, offline: bool
) -> Checkpoint:
    """Return the checkpoint that `repository` names.

    config_directory: what a relative LOCAL path is relative to.
    offline: take what is elsewhere from the local cache only.
    Raises CheckpointError; CheckpointUnavailableError if it may well exist but not be reached.
    """
    if repository.source is CheckpointSource.LOCAL:
        return Checkpoint(_local(repository.local_path(relative_to=config_directory)), None)
    if repository.source is CheckpointSource.HF:
        from beicli.sources.hub import fetch_from_hub  # noqa: PLC0415

        return fetch_from_hub(repository, offline=offline)
    if repository.source is CheckpointSource.REMOTE_URL:
        from beicli.sources.remote_url import fetch_from_url, place_of_url  # noqa: PLC0415

        place = place_of_url(repository)
        if offline:
            return place.require_latest(revision=repository.revision).checkpoint()
        return fetch_from_url(repository, place, pin=repository.revision).checkpoint()
    if repository.source in _OBJECT_STORES:
        from beicli.sources.bucket import fetch_from_bucket  # noqa: PLC0415
        from beicli.sources.stores import open_store, place_of_store  # noqa: PLC0415

        place = place_of_store(repository)
        if offline:
            return place.require_latest(revision=repository.revision).checkpoint()
        with open_store(repository) as bucket:
            return fetch_from_bucket(bucket, place, pin=repository.revision).checkpoint()
    raise _of_the_platform(repository)


def look_into_checkpoint(
    repository: CheckpointRepository, *, config_directory: Path, offline: bool
) -> CheckpointFiles:
    """Return the small files of the checkpoint and the sizes of the others; see above."""
    if repository.source is CheckpointSource.LOCAL:
        return _local_files(_local(repository.local_path(relative_to=config_directory)))
    if repository.source is CheckpointSource.HF:
        from beicli.sources.hub import look_into_hub  # noqa: PLC0415

        return look_into_hub(repository, offline=offline)
    if repository.source is CheckpointSource.REMOTE_URL:
        from beicli.sources.remote_url import look_into_url, place_of_url  # noqa: PLC0415

        place = place_of_url(repository)
        if offline:
            return place.require_latest(revision=repository.revision).checkpoint_files()
        return look_into_url(repository, place, pin=repository.revision).checkpoint_files()
    if repository.source in _OBJECT_STORES:
        from beicli.sources.bucket import look_into_bucket  # noqa: PLC0415
        from beicli.sources.stores import open_store, place_of_store  # noqa: PLC0415

        place = place_of_store(repository)
        if offline:
            entry = place.require_latest(metadata=True, revision=repository.revision)
            return entry.checkpoint_files()
        with open_store(repository) as bucket:
            entry = look_into_bucket(bucket, place, pin=repository.revision)
            return entry.checkpoint_files()
    raise _of_the_platform(repository)


def _local(path: Path) -> Path:
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(
            f"the checkpoint folder `{path}` {found}",
            hint="`repo` of a LOCAL checkpoint is a path, relative to the configuration file",
        )
    return path


def _local_files(path: Path) -> CheckpointFiles:
    found = [file for file in path.rglob("*") if file.is_file()]
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in found}
    headers = {name: path / name for name in sizes if is_weights(name)}
    return CheckpointFiles(path=path, sizes=sizes, headers=headers, resolved_revision=None)


def _of_the_platform(repository: CheckpointRepository) -> CheckpointError:
    return CheckpointError(
        f"checkpoints from `{repository.source}` lie on Baseten's platform, which only its own"
        " builds can read",
        hint="download it with `truss train get_checkpoint_urls`, and name the folder:"
        " `source: LOCAL`, `repo: /path/to/checkpoint`",
    )
