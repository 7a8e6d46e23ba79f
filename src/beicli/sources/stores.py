"""Which object store a repository lies in, and how it is opened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from beicli.config.build_schema import DEFAULT_SECRET_NAME
from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError
from beicli.sources.azure import account_of, open_azure, public_connection
from beicli.sources.bucket import Bucket
from beicli.sources.cache import CachePlace
from beicli.sources.gcs import open_gcs
from beicli.sources.object_store import Location
from beicli.sources.s3 import open_s3
from beicli.sources.secrets import Secret, find_secret

_OPENERS = {
    CheckpointSource.S3: open_s3,
    CheckpointSource.GCS: open_gcs,
    CheckpointSource.AZURE: open_azure,
}
_SCHEMES = {
    CheckpointSource.S3: "s3",
    CheckpointSource.GCS: "gs",
    CheckpointSource.AZURE: "az",
}
# Buckets of the same name behind another endpoint, or seen by another account, are other buckets.
_ENDPOINT_VARIABLES = {
    CheckpointSource.S3: ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"),
    CheckpointSource.GCS: ("STORAGE_EMULATOR_HOST",),
    CheckpointSource.AZURE: ("AZURE_STORAGE_SERVICE_ENDPOINT",),
}


def place_of_store(repository: CheckpointRepository) -> CachePlace:
    """Return where copies of this folder are kept; raises CheckpointError if it is no folder."""
    _root(repository)
    values = [os.environ.get(name, "") for name in _ENDPOINT_VARIABLES[repository.source]]
    if repository.source is CheckpointSource.AZURE:
        secret = _secret(repository.runtime_secret_name)
        values += [account_of(secret) or "", "" if secret else public_connection()]
    return CachePlace.of(repository, told_apart_by="\0".join(values))


@contextmanager
def open_store(repository: CheckpointRepository) -> Iterator[Bucket]:
    """Open the folder that `repo` names, with the secret it names, as long as the block lasts."""
    name = repository.runtime_secret_name
    location = Location(
        repo=public_repo(repository.repo),
        root=_root(repository),
        secret_name=name,
        secret=_secret(name),
    )
    with _OPENERS[repository.source](location) as bucket:
        yield bucket


def _root(repository: CheckpointRepository) -> str:
    """Return `bucket/path` of `scheme://bucket/path`."""
    scheme, separator, root = repository.repo.partition("://")
    root = root.strip("/")
    wanted = _SCHEMES[repository.source]
    shown = public_repo(repository.repo)
    if not separator or scheme != wanted or not root:
        container = "container" if repository.source is CheckpointSource.AZURE else "bucket"
        raise CheckpointError(
            f"`repo` of a checkpoint in `{repository.source}` is `{shown}`",
            hint=f"write `{wanted}://{container}/path/to/checkpoint`",
        )
    if shown != repository.repo:
        # The library would take it for a part of the name, and repeat it in its messages.
        raise CheckpointError(
            f"`repo` of `{shown}` holds a user, a query or a fragment, which no store reads there",
            hint=f"put the credentials into the secret `{repository.runtime_secret_name}`",
        )
    return root


def _secret(name: str) -> Secret | None:
    secret = find_secret(name)
    # The default name is that of the hub's token, which opens no bucket.
    if secret and name == DEFAULT_SECRET_NAME and secret.as_object() is None:
        return None
    return secret
