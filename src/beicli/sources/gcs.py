"""Checkpoints in Google Cloud Storage, through gcsfs.

STORAGE_EMULATOR_HOST names another endpoint; without a secret the library looks for Google's
application default credentials.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from beicli.sources.checksum import Checksum, strongest
from beicli.sources.object_store import (
    FsspecBucket,
    Location,
    credentials_in,
    needs_package,
    opening,
    require_keys,
    run_to_end,
)

_FORM = 'a service account: `{"private_key_id": …, "private_key": …, "client_email": …}`'
_TOKEN_URI = "https://oauth2.googleapis.com/token"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


@contextmanager
def open_gcs(location: Location) -> Iterator[FsspecBucket]:
    """Open a folder of a bucket for as long as the block lasts."""
    with needs_package("gcsfs", "gcs", "GCS"):
        # The package's default adds gRPC, which only zonal buckets need.
        from gcsfs.core import GCSFileSystem  # noqa: PLC0415 - the extra `gcs`
    with opening(location):
        filesystem = GCSFileSystem(
            access="read_only", token=_credentials(location), skip_instance_cache=True
        )
    try:
        yield FsspecBucket(
            location=location,
            filesystem=filesystem,
            version=lambda info: f"{info.get('generation', '')}:{info.get('etag', '')}",
            checksum_of=lambda _, info: _checksum(info),
            default_credentials="GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth"
            " application-default login`",
            listing={},
        )
    finally:
        if filesystem._session is not None:  # noqa: SLF001 - there is no public way to wait for it
            run_to_end(filesystem, filesystem._session.close)  # noqa: SLF001


def _credentials(location: Location) -> Any:
    """Return the service account's credentials, or None for the library's own places."""
    found = credentials_in(location, form=_FORM)
    if found is None:
        return None
    require_keys(location, found, "private_key", "client_email")
    from google.oauth2.service_account import Credentials  # noqa: PLC0415 - comes with gcsfs

    # What the platform stores leaves out what is the same for every service account.
    account = {"type": "service_account", "token_uri": _TOKEN_URI} | dict(found)
    return Credentials.from_service_account_info(account, scopes=[_SCOPE])  # type: ignore[no-untyped-call]


def _checksum(info: Mapping[str, Any]) -> Checksum | None:
    return strongest(
        [
            Checksum.from_base64("md5", info.get("md5Hash")),
            Checksum.from_base64("crc32c", info.get("crc32c")),
        ]
    )
