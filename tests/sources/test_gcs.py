"""Checkpoints in Google Cloud Storage's emulator on loopback."""

import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from gcp_storage_emulator.server import create_server

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError
from beicli.sources.checkpoint import fetch_checkpoint, look_into_checkpoint

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
