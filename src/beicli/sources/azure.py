"""Checkpoints in Azure Blob Storage, through adlfs.

A secret holds the account's key; the account's name stands beside it or in
AZURE_STORAGE_ACCOUNT_NAME. AZURE_STORAGE_SERVICE_ENDPOINT names another endpoint, as for `az`.
Without a secret the library reads AZURE_STORAGE_CONNECTION_STRING and its other variables.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from beicli.errors import CheckpointError
from beicli.sources.checksum import Checksum
from beicli.sources.object_store import (
    FsspecBucket,
    Location,
    credentials_in,
    needs_package,
    opening,
    require_keys,
    run_to_end,
)

_FORM = '`{"account_key": …}`'
_ACCOUNT_VARIABLES = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")


@contextmanager
def open_azure(location: Location) -> Iterator[FsspecBucket]:
    """Open a folder of a container for as long as the block lasts."""
    with needs_package("adlfs", "azure", "AZURE"):
        from adlfs import AzureBlobFileSystem  # noqa: PLC0415 - the extra `azure`
    with opening(location):
        filesystem = AzureBlobFileSystem(skip_instance_cache=True, **_credentials(location))
    try:
        yield FsspecBucket(
            location=location,
            filesystem=filesystem,
            version=lambda info: str(info.get("etag", "")).strip('"'),
            checksum_of=lambda _, info: _checksum(info),
            default_credentials="AZURE_STORAGE_CONNECTION_STRING or `az login`",
            listing={},
        )
    finally:
        run_to_end(filesystem, filesystem.service_client.close)
        if filesystem.credential is not None:
            run_to_end(filesystem, filesystem.credential.close)


def _credentials(location: Location) -> dict[str, Any]:
    found = credentials_in(location, form=_FORM)
    if found is None:
        return _default_credentials(location)
    (key,) = require_keys(location, found, "account_key")
    account = found.get("account_name") or _account()
    if not account:
        raise _unknown_account(location)
    endpoint = os.environ.get("AZURE_STORAGE_SERVICE_ENDPOINT")
    endpoint = endpoint or f"https://{account}.blob.core.windows.net"
    # The only form in which the library takes an endpoint of any scheme; it comes before the
    # variables, so a key in the environment is not used by accident.
    return {"connection_string": f"AccountName={account};AccountKey={key};BlobEndpoint={endpoint}"}


def _default_credentials(location: Location) -> dict[str, Any]:
    if os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return {}
    account = _account()
    if not account:
        raise _unknown_account(location)
    return {"account_name": account}


def _account() -> str | None:
    """Return the account that the environment names."""
    for variable in _ACCOUNT_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    settings = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    pairs = dict(part.split("=", 1) for part in settings.split(";") if "=" in part)
    return pairs.get("AccountName")


def _unknown_account(location: Location) -> CheckpointError:
    return CheckpointError(
        f"`{location.repo}` names a container, and nothing says of which storage account",
        hint="set AZURE_STORAGE_ACCOUNT_NAME, or add `account_name` to the secret",
    )


def _checksum(info: Mapping[str, Any]) -> Checksum | None:
    settings = info.get("content_settings")
    if settings is None:
        return None
    return Checksum.from_base64("md5", settings.get("content_md5"))
