"""Checkpoints in Google Cloud Storage's emulator on loopback."""

import json
import logging
import socket
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import google.auth
import pytest
from gcp_storage_emulator.server import create_server
from google.auth.exceptions import DefaultCredentialsError
from tests.loopback import listening
from tests.sources.silent_server import silent_server

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.sources import gcs as gcs_source
from beicli.sources.checkpoint import fetch_checkpoint, look_into_checkpoint
from beicli.sources.object_store import FsspecBucket
from beicli.sources.stores import open_store

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "1_Pooling/config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 16,
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    endpoint = f"http://127.0.0.1:{port}"
    try:
        bucket = json.dumps({"name": "models"}).encode()
        send(f"{endpoint}/storage/v1/b?project=any", bucket, "application/json")
        for name, content in FILES.items():
            upload(endpoint, name, content)
        yield endpoint
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def settings(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    monkeypatch.delenv("hf_access_token", raising=False)
    monkeypatch.delenv("HF_ACCESS_TOKEN", raising=False)


def send(url: str, content: bytes, kind: str) -> None:
    request = urllib.request.Request(url, data=content, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def upload(endpoint: str, name: str, content: bytes) -> None:
    path = f"/upload/storage/v1/b/models/o?uploadType=media&name={quote(f'tiny/{name}', safe='')}"
    send(endpoint + path, content, "application/octet-stream")


def repository(repo: str = "gs://models/tiny", **others: str) -> CheckpointRepository:
    return CheckpointRepository(source=CheckpointSource.GCS, repo=repo, **others)


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


def test_a_folder_that_does_not_exist_is_named() -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        fetch_checkpoint(repository("gs://models/other"), config_directory=Path(), offline=False)


def test_a_secret_that_is_no_service_account_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("account", '{"private_key": "abcdefgh", "client_email": "a@b"}')

    with pytest.raises(CheckpointError, match="secret `account`") as caught:
        fetch_checkpoint(
            repository(runtime_secret_name="account"), config_directory=Path(), offline=False
        )

    assert "abcdefgh" not in str(caught.value)


def test_a_store_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(_: float) -> None:
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=no_pause))
    monkeypatch.setattr(gcs_source, "_READ_TIMEOUT_S", 0.1)
    with silent_server() as silent:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", silent)
        with pytest.raises(CheckpointUnavailableError, match="cannot be reached"):
            fetch_checkpoint(repository(), config_directory=Path(), offline=False)


class _Anonymous(BaseHTTPRequestHandler):
    """Answers as the store does to whoever has not signed in."""

    status = 401
    message = ""

    def do_GET(self) -> None:
        error = {"code": self.status, "message": self.message}
        content = json.dumps({"error": error}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


@pytest.fixture
def private_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with listening(HTTPServer(("127.0.0.1", 0), _Anonymous)) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Anonymous caller does not have storage.objects.list access to the bucket."),
        (401, "Nobody knows."),
    ],
)
def test_a_private_bucket_asks_whoever_is_not_signed_in_to_sign_in(
    private_bucket: None, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setattr(_Anonymous, "status", status)
    monkeypatch.setattr(_Anonymous, "message", message)

    with pytest.raises(CheckpointError, match="the store refused access") as caught:
        fetch_checkpoint(repository(), config_directory=Path(), offline=False)

    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value.hint)
    # Or Python would print what the library logs, with its traceback.
    assert logging.getLogger("gcsfs").handlers


def test_credentials_that_cannot_be_used_are_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))

    with pytest.raises(CheckpointError, match="default credentials cannot be used") as caught:
        fetch_checkpoint(repository(), config_directory=Path(), offline=False)

    assert "missing.json" in str(caught.value)


def test_without_any_credentials_a_public_bucket_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(DefaultCredentialsError):
        google.auth.default()

    with open_store(repository()) as bucket:
        assert isinstance(bucket, FsspecBucket)
        assert bucket.filesystem.credentials.credentials is None
