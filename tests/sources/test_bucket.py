"""What holds for every store, with a bucket of a few lines in place of one."""

import fcntl
import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

import pytest
from tests.sources.fake_bucket import FILES, HEADER, FakeBucket

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.sources.bucket import fetch_from_bucket, identity_of, look_into_bucket
from beicli.sources.cache import CachePlace
from beicli.sources.files import RemoteFile


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CachePlace:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    return CachePlace.of(CheckpointRepository(source=CheckpointSource.S3, repo="s3://a/b"))


def test_an_interrupt_calls_off_what_is_on_its_way(
    place: CachePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beicli.sources.bucket._PIECE_BYTES", 1)
    readings: list[Future[bytes]] = []

    def interrupted(_: RemoteFile) -> Future[bytes]:
        reading: Future[bytes] = Future()
        if not readings:
            reading.set_exception(KeyboardInterrupt())
        readings.append(reading)
        return reading

    with pytest.raises(KeyboardInterrupt):
        fetch_from_bucket(
            FakeBucket({"config.json": b"{ }", "model.safetensors": b"abc"}, interrupted),
            place,
            pin=None,
        )

    assert len(readings) == 3
    assert all(reading.cancelled() for reading in readings[1:])


def test_half_a_file_that_no_checksum_vouches_for_is_fetched_anew(place: CachePlace) -> None:
    bucket = FakeBucket()
    half = place.staging(identity_of(bucket.list_files())) / "files" / "model.safetensors"
    half.write_bytes(bytes(5))

    entry = fetch_from_bucket(bucket, place, pin=None)

    assert (entry.files / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("get", [fetch_from_bucket, look_into_bucket])
def test_a_complete_copy_is_used_while_another_process_holds_the_place(
    place: CachePlace, get: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = get(FakeBucket(), place, pin=None)

    # It would wait for ever.
    monkeypatch.setattr(CachePlace, "_wait_for", None)
    with (place.directory / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert get(FakeBucket(), place, pin=None) == first


def test_a_complete_copy_is_used_where_nothing_can_be_locked(place: CachePlace) -> None:
    first = fetch_from_bucket(FakeBucket(), place, pin=None)
    lock = place.directory / ".lock"
    lock.unlink()
    # What cannot be opened as a file, whoever runs the tests.
    lock.mkdir()

    assert fetch_from_bucket(FakeBucket(), place, pin=None) == first


def test_whoever_waits_for_another_process_says_so_once(
    place: CachePlace, caplog: pytest.LogCaptureFixture
) -> None:
    place.directory.mkdir(parents=True)
    held = (place.directory / ".lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    waiting = Thread(target=fetch_from_bucket, args=(FakeBucket(), place), kwargs={"pin": None})

    with caplog.at_level(logging.WARNING):
        waiting.start()
        waiting.join(0.3)
        is_waiting = waiting.is_alive()
        held.close()
        waiting.join(10)

    assert is_waiting
    assert [record.getMessage() for record in caplog.records] == [
        "another process is fetching `s3://a/b`; waiting until it is done"
    ]


def test_a_look_that_lost_a_header_is_taken_anew(place: CachePlace) -> None:
    first = look_into_bucket(FakeBucket(), place, pin=None).checkpoint_files()
    first.headers["model.safetensors"].unlink()

    again = look_into_bucket(FakeBucket(), place, pin=None).checkpoint_files()

    assert again.headers["model.safetensors"].read_bytes() == HEADER


def test_what_is_published_is_on_the_disk_first(
    place: CachePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Path] = []
    monkeypatch.setattr("beicli.sources.cache._write_through", kept.append)

    fetch_from_bucket(FakeBucket(), place, pin=None)

    assert {"config.json", "model.safetensors", "entry.json", "files"} <= {p.name for p in kept}
    assert kept[-1] == place.directory
