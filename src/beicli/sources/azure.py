"""Checkpoints in Azure Blob Storage, through adlfs.

A secret holds the account's key; the account's name stands beside it or in
AZURE_STORAGE_ACCOUNT_NAME. AZURE_STORAGE_SERVICE_ENDPOINT names another endpoint, as for `az`.
Without a secret AZURE_STORAGE_CONNECTION_STRING is read, and the library's other variables.
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
    keep_quiet,
    needs_package,
    opening,
    require_keys,
    run_to_end,
)
from beicli.sources.secrets import Secret

_FORM = '`{"account_key": …}`'
_ACCOUNT_VARIABLES = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_CREDENTIALS = frozenset({"accountkey", "sharedaccesssignature"})
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 15
_NUM_RETRIES = 2


@contextmanager
def open_azure(location: Location) -> Iterator[FsspecBucket]:
    """Open a folder of a container for as long as the block lasts."""
    with needs_package("adlfs", "azure", "AZURE"):
        from adlfs import AzureBlobFileSystem  # noqa: PLC0415 - the extra `azure`
    keep_quiet("adlfs")
    with opening(location):
        filesystem = AzureBlobFileSystem(skip_instance_cache=True, **_credentials(location))
        first_client = filesystem.service_client
        filesystem.service_client = _patient_client(filesystem)
        run_to_end(filesystem, first_client.close)
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
    account = account_of(location.secret)
    if not account:
        raise _unknown_account(location)
    endpoint = _endpoint(account)
    # The only form in which the library takes an endpoint of any scheme; it comes before the
    # variables, so a key in the environment is not used by accident.
    return {"connection_string": f"AccountName={account};AccountKey={key};BlobEndpoint={endpoint}"}


def _default_credentials(location: Location) -> dict[str, Any]:
    if os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return {}
    account = account_of(None)
    if not account:
        raise _unknown_account(location)
    return {"account_name": account}


def account_of(secret: Secret | None) -> str | None:
    """Return the account that the secret names, else the one that the environment names."""
    named = ((secret and secret.as_object()) or {}).get("account_name")
    if named:
        return str(named)
    for variable in _ACCOUNT_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    return _connection().get("accountname")


def public_connection() -> str:
    """Return what AZURE_STORAGE_CONNECTION_STRING says besides the credentials."""
    pairs = _connection().items()
    return ";".join(f"{name}={value}" for name, value in pairs if name not in _CREDENTIALS)


def _connection() -> dict[str, str]:
    settings = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    pairs = [part.split("=", 1) for part in settings.split(";") if "=" in part]
    return {name.strip().lower(): value for name, value in pairs}


def _endpoint(account: str) -> str:
    setting = os.environ.get("AZURE_STORAGE_SERVICE_ENDPOINT")
    return setting or f"https://{account}.blob.core.windows.net"


def _patient_client(filesystem: Any) -> Any:
    """Return a client with the file system's credentials, for this endpoint and these timeouts.

    The library offers neither: a store that never answers would hold it for ten minutes.
    """
    from azure.storage.blob.aio import (  # noqa: PLC0415 - comes with adlfs
        BlobServiceClient,
        ExponentialRetry,
    )

    options: dict[str, Any] = {
        "connection_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retry_policy": ExponentialRetry(
            initial_backoff=1, increment_base=2, retry_total=_NUM_RETRIES
        ),
    }
    if filesystem.connection_string:
        return BlobServiceClient.from_connection_string(filesystem.connection_string, **options)
    credential = filesystem.credential or filesystem.account_key
    # The library put the question mark before it.
    sas_token = "" if credential else filesystem.sas_token or ""
    address = f"{_endpoint(filesystem.account_name)}{sas_token}"
    return BlobServiceClient(address, credential=credential, **options)


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
