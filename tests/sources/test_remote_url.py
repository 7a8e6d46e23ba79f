import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from tests.sources.archives import FILES, KEPT, pack
from tests.sources.file_server import FileServer

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.sources import http_download
from beicli.sources.checkpoint import fetch_checkpoint, look_into_checkpoint
from beicli.sources.fetched import Checkpoint
from beicli.sources.http_answer import RemoteState
from beicli.sources.http_download import Download

ARCHIVE = pack()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http_download.time, "sleep", lambda _: None)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer(ARCHIVE)
    with server.serving():
        yield server


def repository(
    server: FileServer, path: str = "/model.tar.gz", **others: str
) -> CheckpointRepository:
    return CheckpointRepository(
        source=CheckpointSource.REMOTE_URL, repo=f"{server.endpoint}{path}", **others
    )


def fetch(
    server: FileServer, path: str = "/model.tar.gz", *, offline: bool = False, **others: str
) -> Checkpoint:
    return fetch_checkpoint(
        repository(server, path, **others), config_directory=Path("/nowhere"), offline=offline
    )


def files_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {
        path.relative_to(checkpoint.path).as_posix(): path.read_bytes()
        for path in checkpoint.path.rglob("*")
        if path.is_file()
    }


def test_an_archive_becomes_a_checkpoint(server: FileServer) -> None:
    checkpoint = fetch(server)

    assert files_of(checkpoint) == KEPT
    assert checkpoint.resolved_revision == hashlib.sha256(ARCHIVE).hexdigest()


def test_a_folder_around_the_files_is_looked_through(server: FileServer) -> None:
    server.content = pack({f"model/{name}": content for name, content in FILES.items()})

    assert files_of(fetch(server)) == KEPT


def test_an_archive_that_did_not_change_is_not_fetched_again(server: FileServer) -> None:
    first = fetch(server)
    num_requests = len(server.requests)

    assert fetch(server) == first
    assert len(server.requests) == num_requests + 1  # one byte, to see what is there


def test_an_archive_that_changed_is_fetched_again(server: FileServer) -> None:
    fetch(server)
    server.content, server.etag = pack(FILES | {"config.json": b'{"newer": 1}'}), '"two"'

    assert files_of(fetch(server))["config.json"] == b'{"newer": 1}'


def test_another_signature_is_the_same_archive(server: FileServer) -> None:
    first = fetch(server, "/model.tar.gz?X-Amz-Signature=one&X-Amz-Date=1")

    assert fetch(server, "/model.tar.gz?X-Amz-Signature=two&X-Amz-Date=2") == first


def test_a_broken_connection_goes_on_where_it_stopped(server: FileServer) -> None:
    server.broken_after = [700, 300]

    assert files_of(fetch(server)) == KEPT
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == ["bytes=0-0", None, "bytes=700-", "bytes=1000-"]


def test_a_fetch_that_was_given_up_goes_on_in_the_next_run(server: FileServer) -> None:
    server.broken_after = [700, *[0] * 10]
    with pytest.raises(CheckpointUnavailableError, match="the connection broke"):
        fetch(server)
    server.broken_after.clear()

    assert files_of(fetch(server)) == KEPT
    assert server.requests[-1][1]["Range"] == "bytes=700-"


def test_a_server_without_ranges_is_read_from_the_start(server: FileServer) -> None:
    server.honours_ranges = False
    server.broken_after = [len(ARCHIVE), 700]

    assert files_of(fetch(server)) == KEPT


def test_a_busy_server_is_asked_again(server: FileServer) -> None:
    server.refusals = [503, 429, 500]

    assert files_of(fetch(server)) == KEPT


@pytest.mark.parametrize(("status", "hint"), [(403, "make a new one"), (404, "check the address")])
def test_a_refusal_is_explained(server: FileServer, status: int, hint: str) -> None:
    server.refusals = [status]

    with pytest.raises(CheckpointError, match=f"the server answered {status}") as caught:
        fetch(server)

    assert hint in str(caught.value.hint)


def test_content_that_is_not_what_the_server_promised_is_refused(
    server: FileServer, cache: Path
) -> None:
    digest = base64.b64encode(hashlib.sha256(b"something else").digest()).decode()
    server.headers = {"Repr-Digest": f"sha-256=:{digest}:"}

    with pytest.raises(CheckpointError, match="arrived damaged"):
        fetch(server)

    assert not list(cache.rglob("config.json"))


def test_an_address_is_never_shown_with_its_credentials(server: FileServer) -> None:
    server.refusals = [403]
    repo = server.endpoint.replace("http://", "http://user:pass-word@")
    place = CheckpointRepository(
        source=CheckpointSource.REMOTE_URL, repo=f"{repo}/model.tar.gz?sig=secret-signature"
    )

    with pytest.raises(CheckpointError) as caught:
        fetch_checkpoint(place, config_directory=Path(), offline=False)

    assert "pass-word" not in str(caught.value)
    assert "secret-signature" not in str(caught.value)
    assert server.endpoint in str(caught.value)
    expected = base64.b64encode(b"user:pass-word").decode()
    assert server.requests[0][1]["Authorization"] == f"Basic {expected}"


def test_a_pinned_sha256_is_held_to(server: FileServer) -> None:
    assert fetch(server, revision=hashlib.sha256(ARCHIVE).hexdigest())

    with pytest.raises(CheckpointError, match="the configuration pins"):
        fetch(server, revision="0" * 64)


def test_an_archive_without_a_checkpoint_is_refused(server: FileServer) -> None:
    server.content = pack({"weights.safetensors": b"x", "readme.txt": b"y"})

    with pytest.raises(CheckpointError, match=r"no `config\.json` at its root; found"):
        fetch(server)


@pytest.mark.parametrize("repo", ["s3://bucket/model", "model.tar.gz", "http://", "https://[::1"])
def test_what_is_no_web_address_is_refused(repo: str) -> None:
    place = CheckpointRepository(source=CheckpointSource.REMOTE_URL, repo=repo)

    with pytest.raises(CheckpointError, match="is not an address"):
        fetch_checkpoint(place, config_directory=Path(), offline=False)


def test_offline_takes_what_was_fetched(server: FileServer) -> None:
    with pytest.raises(CheckpointUnavailableError, match="not in the local cache"):
        fetch(server, offline=True)
    first = fetch(server)
    num_requests = len(server.requests)

    assert fetch(server, offline=True) == first
    assert len(server.requests) == num_requests


def test_a_copy_that_lost_a_file_is_fetched_again(server: FileServer) -> None:
    (fetch(server).path / "tokenizer.json").unlink()

    assert files_of(fetch(server)) == KEPT


def test_two_fetches_at_once_fetch_once(server: FileServer) -> None:
    found: list[Checkpoint] = []
    threads = [Thread(target=lambda: found.append(fetch(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len(set(found)) == 1
    whole = [headers for _, headers in server.requests if headers.get("Range") != "bytes=0-0"]
    assert len(whole) == 1


def test_a_look_at_a_small_archive_fetches_it(server: FileServer) -> None:
    files = look_into_checkpoint(
        repository(server), config_directory=Path("/nowhere"), offline=False
    )

    assert files.sizes == {name: len(content) for name, content in FILES.items()}
    assert (files.path / "config.json").read_bytes() == FILES["config.json"]
    assert set(files.headers) == {"model.safetensors"}


def test_a_look_at_an_archive_of_unknown_size_is_refused(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beicli.sources.remote_url._MAX_LOOK_BYTES", 100)

    with pytest.raises(CheckpointUnavailableError, match="cannot be looked into"):
        look_into_checkpoint(repository(server), config_directory=Path(), offline=False)


def test_without_a_version_the_content_is_its_own_name(server: FileServer) -> None:
    server.etag = ""
    first = fetch(server)
    server.content = pack(FILES | {"config.json": b'{"newer": 1}'})

    second = fetch(server)

    assert files_of(first) == KEPT
    assert files_of(second)["config.json"] == b'{"newer": 1}'
    server.content = ARCHIVE
    assert fetch(server) == first


def test_what_is_no_sha256_pins_nothing(server: FileServer) -> None:
    assert files_of(fetch(server, revision="main")) == KEPT
    assert files_of(fetch(server, revision="main", offline=True)) == KEPT


def test_a_look_at_a_copy_holds_to_the_pin(server: FileServer) -> None:
    fetch(server)

    with pytest.raises(CheckpointError, match="the configuration pins"):
        look_into_checkpoint(
            repository(server, revision="0" * 64), config_directory=Path(), offline=False
        )


def test_an_answer_may_leave_out_what_another_said(server: FileServer) -> None:
    server.headers = {"Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT"}
    server.left_out_of_parts = ("Last-Modified",)
    server.broken_after = [700]

    assert files_of(fetch(server)) == KEPT
    assert server.requests[-1][1]["Range"] == "bytes=700-"


def test_content_that_changed_on_the_way_is_noticed(server: FileServer) -> None:
    # One byte, and then as many as if it were another file.
    server.headers = {"Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT"}
    state = Download(repository(server).repo).probe()

    assert state.contradicts(replace(state, etag='"two"'))
    assert state.contradicts(replace(state, size_bytes=1))
    assert state.contradicts(replace(state, etag="", last_modified="Wed, 02 Jan 2030 00:00:00 GMT"))
    assert not state.contradicts(RemoteState())


def test_a_server_that_begins_anew_and_breaks_off_is_given_up(server: FileServer) -> None:
    server.honours_ranges = False
    server.broken_after = [len(ARCHIVE), *[700, 300] * 50]

    with pytest.raises(CheckpointUnavailableError, match="the connection broke"):
        fetch(server)

    assert len(server.requests) < 10


def test_letters_that_no_address_has_are_spelled_as_they_are_sent(server: FileServer) -> None:
    assert files_of(fetch(server, "/modèle 1%20b.tar.gz?a=é")) == KEPT
    assert server.requests[0][0] == "/mod%C3%A8le%201%20b.tar.gz?a=%C3%A9"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:99999", "127.0.0.1:x", "a..b", f"{'a' * 70}.x", "é..b"]
)
def test_a_host_that_cannot_be_is_not_asked_again(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Download, "_wait", None)
    place = CheckpointRepository(source=CheckpointSource.REMOTE_URL, repo=f"http://{host}/a.tar.gz")

    with pytest.raises(CheckpointError, match="is no address that can be asked"):
        fetch_checkpoint(place, config_directory=Path(), offline=False)


def test_a_copy_is_used_where_nothing_can_be_locked(server: FileServer, cache: Path) -> None:
    first = fetch(server)
    (lock,) = cache.rglob(".lock")
    lock.unlink()
    lock.mkdir()

    assert fetch(server) == first


def test_nothing_is_kept_of_an_archive_that_is_refused(server: FileServer, cache: Path) -> None:
    server.content = pack(FILES | {"../config.json": b"{}"})

    with pytest.raises(CheckpointError, match="unsafe name"):
        fetch(server)

    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]
