"""Checkpoints in S3 and in stores that speak its language, through s3fs.

Endpoint, region and profile come from the AWS variables and files that the library reads itself,
such as AWS_ENDPOINT_URL.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from beicli.sources.checksum import Algorithm, Checksum, strongest
from beicli.sources.object_store import (
    FsspecBucket,
    Location,
    credentials_in,
    needs_package,
    opening,
    require_keys,
    run_to_end,
)

_FORM = '`{"aws_access_key_id": …, "aws_secret_access_key": …, "aws_region": …}`'
_CHECKSUMS: tuple[tuple[str, Algorithm], ...] = (
    ("ChecksumSHA256", "sha256"),
    ("ChecksumSHA1", "sha1"),
    ("ChecksumCRC32C", "crc32c"),
    ("ChecksumCRC32", "crc32"),
)
# Without them a store that never answers would hold the fetch for seven minutes.
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 15
# Of s3fs, and of botocore within each of them.
_NUM_TRIES = 2


@contextmanager
def open_s3(location: Location) -> Iterator[FsspecBucket]:
    """Open a folder of a bucket for as long as the block lasts."""
    with needs_package("s3fs", "s3", "S3"):
        from s3fs import S3FileSystem  # noqa: PLC0415 - the extra `s3`
    with opening(location):
        # Kept by nobody else: instances are compared by their credentials.
        filesystem = S3FileSystem(
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "read_timeout": _READ_TIMEOUT_S,
                "retries": {"total_max_attempts": _NUM_TRIES},
            },
            **_credentials(location),
        )
        filesystem.retries = _NUM_TRIES
    try:
        yield FsspecBucket(
            location=location,
            filesystem=filesystem,
            version=lambda info: str(info.get("ETag", "")).strip('"'),
            checksum_of=lambda path, _: _checksum(filesystem, path),
            default_credentials="AWS_PROFILE, AWS_ACCESS_KEY_ID or `aws configure`",
            listing={},
        )
    finally:
        if filesystem._s3 is not None:  # noqa: SLF001 - there is no public way to wait for it
            run_to_end(filesystem, filesystem._s3.close)  # noqa: SLF001


def _credentials(location: Location) -> dict[str, Any]:
    found = credentials_in(location, form=_FORM)
    if found is None:
        return {}
    # Older configurations leave the prefix out.
    values = {key.removeprefix("aws_"): value for key, value in found.items()}
    key, secret = require_keys(location, values, "access_key_id", "secret_access_key")
    options: dict[str, Any] = {"key": key, "secret": secret}
    if values.get("session_token"):
        options["token"] = values["session_token"]
    if values.get("region"):
        options["client_kwargs"] = {"region_name": values["region"]}
    return options


def _checksum(filesystem: Any, path: str) -> Checksum | None:
    bucket, key, _ = filesystem.split_path(path)
    head: Mapping[str, Any] = filesystem.call_s3(
        "head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED"
    )
    found: list[Checksum | None] = []
    # One of several parts is a checksum of checksums.
    if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        found = [Checksum.from_base64(kind, head.get(name)) for name, kind in _CHECKSUMS]
    # With a key of the customer's the ETag is no MD5.
    is_plain = head.get("ServerSideEncryption") in {None, "AES256"}
    if is_plain and "SSECustomerAlgorithm" not in head:
        found.append(Checksum.from_md5_etag(head.get("ETag")))
    return strongest(found)
