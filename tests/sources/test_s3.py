"""Checkpoints in a real S3 server on loopback, read with the client that users have."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from tests.sources.silent_server import silent_server

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.sources import s3 as s3_source
from beicli.sources.checkpoint import fetch_checkpoint, look_into_checkpoint
from beicli.sources.fetched import Checkpoint, CheckpointFiles

_HEADER = json.dumps({"w": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
WEIGHTS = struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(256)
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
}
WANTED = {name: FILES[name] for name in FILES if not name.endswith(".bin")}
REPO = "s3://models/tiny/bert"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def s3(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name in ("hf_access_token", "HF_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="models")
    upload(client, FILES)
    yield client
    for item in client.list_objects_v2(Bucket="models").get("Contents", []):
        client.delete_object(Bucket="models", Key=item["Key"])
    client.delete_bucket(Bucket="models")
    client.close()


def upload(client: Any, files: Mapping[str, bytes], prefix: str = "tiny/bert") -> None:
    for name, content in files.items():
        client.put_object(Bucket="models", Key=f"{prefix}/{name}", Body=content)


def repository(repo: str = REPO, **others: str) -> CheckpointRepository:
    return CheckpointRepository(source=CheckpointSource.S3, repo=repo, **others)


def fetch(repo: str = REPO, *, offline: bool = False, **others: str) -> Checkpoint:
    return fetch_checkpoint(
        repository(repo, **others), config_directory=Path("/nowhere"), offline=offline
    )


def look(*, offline: bool = False) -> CheckpointFiles:
    return look_into_checkpoint(repository(), config_directory=Path("/nowhere"), offline=offline)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_a_build_reads_is_fetched(s3: Any) -> None:
    upload(s3, {"config.json": b"of another model"}, prefix="tiny/bert-large")

    assert files_in(fetch().path) == WANTED
    assert files_in(fetch(f"{REPO}/").path) == WANTED


def test_a_second_fetch_downloads_nothing(s3: Any) -> None:
    first = fetch()
    before = (first.path / "model.safetensors").stat().st_mtime_ns

    assert fetch() == first
    assert (first.path / "model.safetensors").stat().st_mtime_ns == before


def test_content_that_changed_is_another_revision(s3: Any) -> None:
    first = fetch()
    upload(s3, {"config.json": b'{"model_type": "roberta"}'})

    second = fetch()

    assert second.resolved_revision != first.resolved_revision
    assert (second.path / "config.json").read_bytes() == b'{"model_type": "roberta"}'
    with pytest.raises(CheckpointError, match="the configuration pins"):
        fetch(revision=str(first.resolved_revision))
    assert fetch(revision=str(first.resolved_revision), offline=True) == first


def test_a_look_reads_headers_only(tmp_path: Path) -> None:
    files = look()

    assert files.sizes == {name: len(content) for name, content in FILES.items()}
    assert "model.safetensors" not in files_in(files.path)
    assert files.headers["model.safetensors"].read_bytes() == WEIGHTS[: 8 + len(_HEADER)]
    assert look(offline=True).sizes == files.sizes
    with pytest.raises(CheckpointUnavailableError, match="not in the local cache"):
        fetch(offline=True)


def test_half_a_file_is_gone_on_with(tmp_path: Path) -> None:
    whole = fetch().path
    entry = whole.parent
    partial = entry.with_name(f"{entry.name}.partial")
    entry.rename(partial)
    half = partial / "files" / "model.safetensors"
    half.write_bytes(WEIGHTS[:100])

    assert files_in(fetch().path) == WANTED


def test_half_a_file_that_is_wrong_is_fetched_again(tmp_path: Path) -> None:
    entry = fetch().path.parent
    partial = entry.with_name(f"{entry.name}.partial")
    entry.rename(partial)
    (partial / "files" / "model.safetensors").write_bytes(b"\xff" * 100)

    assert files_in(fetch().path) == WANTED


@pytest.mark.parametrize(
    "secret",
    [
        {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region": "us-east-1"},
        {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"},
        {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_session_token": "c"},
    ],
)
def test_credentials_come_from_the_named_secret(
    monkeypatch: pytest.MonkeyPatch, secret: Mapping[str, str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("aws_credentials", json.dumps(secret))

    assert files_in(fetch(runtime_secret_name="aws_credentials").path) == WANTED


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("a plain token", "is not a JSON object"),
        ('{"aws_access_key_id": "a"}', "has no `secret_access_key`"),
    ],
)
def test_a_secret_of_the_wrong_form_is_explained(
    monkeypatch: pytest.MonkeyPatch, value: str, what: str
) -> None:
    monkeypatch.setenv("aws_credentials", value)

    with pytest.raises(CheckpointError, match=what):
        fetch(runtime_secret_name="aws_credentials")


def test_the_hubs_token_opens_no_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("hf_access_token", "hf_something")

    assert files_in(fetch().path) == WANTED


def test_without_credentials_it_says_how_to_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    with pytest.raises(CheckpointUnavailableError, match="no credentials were found") as caught:
        fetch(runtime_secret_name="aws_credentials")

    assert "`aws_credentials`" in str(caught.value.hint)
    assert "AWS_PROFILE" in str(caught.value.hint)


@pytest.mark.parametrize("repo", ["s3://models/other", "s3://no-such-bucket/tiny"])
def test_a_folder_that_does_not_exist_is_named(repo: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist") as caught:
        fetch(repo)

    assert repo in str(caught.value)


def test_a_folder_without_a_checkpoint_says_what_is_there() -> None:
    with pytest.raises(CheckpointError, match=r"no `config\.json`; found `bert/1_Pooling"):
        fetch("s3://models/tiny")


@pytest.mark.parametrize("repo", ["models/tiny", "gs://models/tiny", "s3://", "S3://models/a"])
def test_what_is_no_bucket_is_refused(repo: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch(repo)

    assert caught.value.hint == "write `s3://bucket/path/to/checkpoint`"


def test_an_unreachable_store_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    with pytest.raises(CheckpointUnavailableError, match="cannot be reached"):
        fetch()


def test_a_store_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # As for the others: a minute or two in all.
    assert s3_source._READ_TIMEOUT_S * s3_source._NUM_TRIES**2 <= 120
    monkeypatch.setattr(s3_source, "_READ_TIMEOUT_S", 0.1)
    with silent_server() as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
        with pytest.raises(CheckpointUnavailableError, match="cannot be reached"):
            fetch()


def test_a_branch_pins_nothing_in_a_bucket() -> None:
    assert files_in(fetch(revision="main").path) == WANTED
    assert files_in(fetch(revision="main", offline=True).path) == WANTED


def test_a_pin_may_be_written_in_capitals() -> None:
    first = fetch()

    assert fetch(revision=str(first.resolved_revision).upper()) == first


def test_names_that_nobody_reads_are_no_reason_to_refuse_a_bucket(s3: Any) -> None:
    upload(s3, {"docs\\readme.md": b"words", "a\tpicture.png": b"colours"})

    assert files_in(fetch().path) == WANTED
    assert "docs\\readme.md" not in look().sizes


def test_a_file_below_a_folder_without_a_name_is_read_where_it_is(s3: Any) -> None:
    upload(s3, {"sub//x.json": b'{"x": 1}'})

    assert files_in(fetch().path) == WANTED | {"sub/x.json": b'{"x": 1}'}


def test_two_keys_that_come_to_one_name_are_refused(s3: Any) -> None:
    upload(s3, {"sub//x.json": b"1", "sub/x.json": b"2"})

    with pytest.raises(CheckpointError, match=r"two files with the name `sub/x\.json`"):
        fetch()


def test_a_wanted_file_with_an_unsafe_name_is_refused(s3: Any) -> None:
    upload(s3, {"a\\b.json": b"{}"})

    with pytest.raises(CheckpointError, match="unsafe name"):
        fetch()


def test_a_user_or_a_query_is_no_part_of_a_bucket() -> None:
    with pytest.raises(CheckpointError, match="no store reads there") as caught:
        fetch("s3://key:OPENSESAME@models/tiny", runtime_secret_name="mine")

    assert caught.value.hint == "put the credentials into the secret `mine`"


def test_profiles_have_copies_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch()
    monkeypatch.setenv("AWS_PROFILE", "another")

    with pytest.raises(CheckpointUnavailableError, match="not in the local cache"):
        fetch(offline=True)
