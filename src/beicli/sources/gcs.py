"""Checkpoints in Google Cloud Storage, through gcsfs.

STORAGE_EMULATOR_HOST names another endpoint; without a secret Google's application default
credentials are looked for. Only where there are none at all is a bucket read as the public may.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from beicli.errors import CheckpointError
from beicli.sources.checksum import Checksum, strongest
from beicli.sources.object_store import (
    FsspecBucket,
    Location,
    credentials_in,
    keep_quiet,
    needs_package,
    opening,
    require_keys,
    run_to_end,
)

_FORM = 'a service account: `{"private_key_id": …, "private_key": …, "client_email": …}`'
_TOKEN_URI = "https://oauth2.googleapis.com/token"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_SIGN_IN = "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`"
_ANONYMOUS = "anon"
_CONNECT_TIMEOUT_S = 10
# The library tries six times: a store that never answers holds it for two minutes.
_READ_TIMEOUT_S = 15


@contextmanager
def open_gcs(location: Location) -> Iterator[FsspecBucket]:
    """Open a folder of a bucket for as long as the block lasts."""
    with needs_package("gcsfs", "gcs", "GCS"):
        # The package's default adds gRPC, which only zonal buckets need.
        from aiohttp import ClientTimeout  # noqa: PLC0415 - comes with gcsfs
        from gcsfs.core import GCSFileSystem  # noqa: PLC0415 - the extra `gcs`
    keep_quiet("gcsfs")
    with opening(location):
        filesystem = GCSFileSystem(
            access="read_only",
            token=_credentials(location),
            skip_instance_cache=True,
            requests_timeout=ClientTimeout(
                total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S
            ),
        )
    try:
        yield FsspecBucket(
            location=location,
            filesystem=filesystem,
            version=lambda info: f"{info.get('generation', '')}:{info.get('etag', '')}",
            checksum_of=lambda _, info: _checksum(info),
            default_credentials=_SIGN_IN,
            listing={},
        )
    finally:
        if filesystem._session is not None:  # noqa: SLF001 - there is no public way to wait for it
            run_to_end(filesystem, filesystem._session.close)  # noqa: SLF001


def _credentials(location: Location) -> Any:
    """Return the service account's credentials, or those of whoever is signed in here."""
    found = credentials_in(location, form=_FORM)
    if found is None:
        return _default_credentials(location)
    require_keys(location, found, "private_key", "client_email")
    from google.oauth2.service_account import Credentials  # noqa: PLC0415 - comes with gcsfs

    # What the platform stores leaves out what is the same for every service account.
    account = {"type": "service_account", "token_uri": _TOKEN_URI} | dict(found)
    return Credentials.from_service_account_info(account, scopes=[_SCOPE])  # type: ignore[no-untyped-call]


def _default_credentials(location: Location) -> Any:
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return _ANONYMOUS
    import google.auth  # noqa: PLC0415 - comes with gcsfs
    from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            # That a user's own credentials name no project to bill.
            warnings.simplefilter("ignore")
            credentials, _ = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError as error:
        what = str(error.args[0] if error.args else error)
        if "default credentials were not found" in what:
            return _ANONYMOUS
        raise CheckpointError(
            f"`{location.repo}` cannot be read: Google's default credentials cannot be used:"
            f" {' '.join(what.split())[:300]}",
            hint=f"set the secret `{location.secret_name}`, or sign in anew: {_SIGN_IN}",
        ) from None
    return credentials


def _checksum(info: Mapping[str, Any]) -> Checksum | None:
    return strongest(
        [
            Checksum.from_base64("md5", info.get("md5Hash")),
            Checksum.from_base64("crc32c", info.get("crc32c")),
        ]
    )
