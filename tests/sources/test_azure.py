"""Checkpoints in a stand-in for Azure Blob Storage: the requests its client sends for a folder."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from tests.loopback import listening
from tests.sources.silent_server import silent_server

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.sources import azure as azure_source
from beicli.sources.checkpoint import fetch_checkpoint, look_into_checkpoint
from beicli.sources.object_store import FsspecBucket
from beicli.sources.stores import open_store

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "1_Pooling/config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 16,
}
BLOBS = {f"tiny/{name}": content for name, content in FILES.items()}
KEY = base64.b64encode(b"a key of an account").decode()
DATE = "Mon, 02 Nov 2026 03:04:05 GMT"


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path).removeprefix("/account/")
        if not self.headers.get("Authorization", "").startswith("SharedKey account:"):
            self._answer(403, b"", {"x-ms-error-code": "AuthenticationFailed"})
        elif query.get("comp") == "list" and path == "models":
            self._answer(200, self._list(query), {"Content-Type": "application/xml"})
        elif path.removeprefix("models/") in BLOBS:
            self._answer_blob(BLOBS[path.removeprefix("models/")])
        elif path == "models":
            self._answer(200, b"", {"ETag": '"0x1"', "Last-Modified": DATE})
        else:
            code = "BlobNotFound" if path.startswith("models/") else "ContainerNotFound"
            self._answer(404, b"", {"x-ms-error-code": code})

    def _list(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        entries, folders = [], set()
        for name, content in BLOBS.items():
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter, 1)[0] + delimiter)
                continue
            md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
            entries.append(
                f"<Blob><Name>{escape(name)}</Name><Properties>"
                f"<Last-Modified>{DATE}</Last-Modified><Etag>{md5}</Etag>"
                f"<Content-Length>{len(content)}</Content-Length>"
                f"<Content-MD5>{md5}</Content-MD5><BlobType>BlockBlob</BlobType>"
                "</Properties></Blob>"
            )
        found = "".join(entries)
        found += "".join(
            f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in sorted(folders)
        )
        text = f"<Blobs>{found}</Blobs><NextMarker />"
        text = f'<EnumerationResults ContainerName="models">{text}</EnumerationResults>'
        return f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()

    def _answer_blob(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("x-ms-range", ""))
        start, end = 0, len(content)
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or end) + 1, end)
        headers = {"ETag": '"0x1"', "Last-Modified": DATE, "x-ms-blob-type": "BlockBlob"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._answer(206 if asked else 200, content[start:end], headers)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), _Handler)) as address:
        yield f"{address}/account"


@pytest.fixture(autouse=True)
def settings(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("azure_key", json.dumps({"account_key": KEY}))
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)


def repository(repo: str = "az://models/tiny") -> CheckpointRepository:
    return CheckpointRepository(
        source=CheckpointSource.AZURE, repo=repo, runtime_secret_name="azure_key"
    )


def test_what_a_build_reads_is_fetched_and_fetched_once() -> None:
    checkpoint = fetch_checkpoint(repository(), config_directory=Path(), offline=False)

    found = {name: (checkpoint.path / name).read_bytes() for name in FILES}
    assert found == FILES
    assert fetch_checkpoint(repository(), config_directory=Path(), offline=False) == checkpoint
    assert fetch_checkpoint(repository(), config_directory=Path(), offline=True) == checkpoint


def test_a_look_fetches_no_weights() -> None:
    files = look_into_checkpoint(repository(), config_directory=Path(), offline=False)

    assert files.sizes == {name: len(content) for name, content in FILES.items()}
    assert not (files.path / "model.safetensors").exists()


@pytest.mark.parametrize("repo", ["az://models/other", "az://missing/tiny"])
def test_a_folder_that_does_not_exist_is_named(repo: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        fetch_checkpoint(repository(repo), config_directory=Path(), offline=False)


@pytest.mark.parametrize("secret", ['{"account_key": ""}', "plain"])
def test_a_secret_of_the_wrong_form_is_explained(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("azure_key", secret)

    with pytest.raises(CheckpointError, match="azure_key"):
        fetch_checkpoint(repository(), config_directory=Path(), offline=False)


def test_without_an_account_it_says_where_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")

    with pytest.raises(CheckpointError, match="which storage account"):
        fetch_checkpoint(repository(), config_directory=Path(), offline=False)


def test_a_store_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_source, "_READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr(azure_source, "_NUM_RETRIES", 0)
    with silent_server() as silent:
        monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", f"{silent}/account")
        with pytest.raises(CheckpointUnavailableError, match="cannot be reached"):
            fetch_checkpoint(repository(), config_directory=Path(), offline=False)


def test_accounts_that_secrets_name_have_copies_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    monkeypatch.setenv("azure_key", json.dumps({"account_key": KEY, "account_name": "account"}))
    first = fetch_checkpoint(repository(), config_directory=Path(), offline=False)
    assert fetch_checkpoint(repository(), config_directory=Path(), offline=True) == first
    monkeypatch.setenv("azure_key", json.dumps({"account_key": KEY, "account_name": "another"}))

    with pytest.raises(CheckpointUnavailableError, match="not in the local cache"):
        fetch_checkpoint(repository(), config_directory=Path(), offline=True)


def test_accounts_that_connections_name_have_copies_of_their_own(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    for name in ("azure_key", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_SERVICE_ENDPOINT"):
        monkeypatch.delenv(name)
    connection = f"AccountName=account;AccountKey={KEY};BlobEndpoint={endpoint}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    first = fetch_checkpoint(repository(), config_directory=Path(), offline=False)

    # Another key opens the same account.
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection.replace(KEY, "b3RoZXI="))
    assert fetch_checkpoint(repository(), config_directory=Path(), offline=True) == first
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", connection.replace("Name=account", "Name=another")
    )
    with pytest.raises(CheckpointUnavailableError, match="not in the local cache"):
        fetch_checkpoint(repository(), config_directory=Path(), offline=True)


def test_a_secret_is_masked_before_a_long_text_is_cut() -> None:
    with open_store(repository()) as bucket:
        explained = bucket.explain(OSError(f"{'E' * 480} {KEY}"))

    assert KEY[:8] not in explained.message


def test_a_signature_in_the_environment_is_sent_but_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("azure_key")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=opensesame")

    with open_store(repository()) as bucket:
        assert isinstance(bucket, FsspecBucket)
        url = bucket.filesystem.service_client.url
        explained = bucket.explain(OSError(f"cannot read {url}"))

    assert url.endswith("sig=opensesame")
    assert "opensesame" not in explained.message


def test_the_librarys_own_credentials_are_used_at_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("azure_key")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)

    checkpoint = fetch_checkpoint(repository(), config_directory=Path(), offline=False)

    assert (checkpoint.path / "config.json").read_bytes() == FILES["config.json"]
