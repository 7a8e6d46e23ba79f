"""Which files of a checkpoint without safetensors are fetched, from every kind of source."""

from pathlib import Path

import pytest
from tests.sources.archives import pack
from tests.sources.fake_bucket import FakeBucket
from tests.sources.fake_hub import COMMIT, REPO, FakeHub

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError
from beicli.sources.archive import ArchiveLimits, unpack
from beicli.sources.bucket import fetch_from_bucket
from beicli.sources.cache import CachePlace
from beicli.sources.checkpoint import fetch_checkpoint, look_into_checkpoint
from beicli.sources.fetched import Checkpoint
from beicli.sources.hub_cache import look_into_cache

SMALL = {"config.json": b"{}", "tokenizer.json": b'{"version": "1.0"}'}
ONNX = {
    "onnx/model.onnx": b"a graph",
    "onnx/model.onnx_data": b"its weights",
    "onnx/model.onnx_data_1": b"more of its weights",
    "onnx/Constant_7_attr__value": b"a tensor",
    "onnx/encoder.layer.0.output.dense.weight": b"a tensor",
}
VARIANTS = {
    "onnx/model_quantized.onnx": b"a graph",
    "onnx/model_fp16.onnx": b"a graph",
    "onnx/model_fp16.onnx_data": b"its weights",
    "onnx/model_int8.onnx": b"a graph",
    "onnx/decoder_model.onnx": b"a graph",
    "onnx/model.onnx.png": b"a picture",
    "onnx/config.json": b"{}",
}
# What lies at the root is not taken where exporters write another.
AT_ROOT = {"model.onnx": b"an older graph"}
OTHERS = {"README.md": b"# words", "onnx/.model.onnx": b"hidden"}

SAFETENSORS = {"model.safetensors": b"weights"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CachePlace:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    return CachePlace.of(CheckpointRepository(source=CheckpointSource.S3, repo="s3://a/b"))


def fetch(*, offline: bool = False) -> Checkpoint:
    repository = CheckpointRepository(source=CheckpointSource.HF, repo=REPO)
    return fetch_checkpoint(repository, config_directory=Path("/nowhere"), offline=offline)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def asked_for(hub: FakeHub) -> set[str]:
    """Return the names of the files that were asked for, the hub's own routes left out."""
    prefix = f"/{REPO}/resolve/{COMMIT}/"
    return {
        request.path.removeprefix(prefix)
        for request in hub.requests
        if request.path.startswith(prefix)
    }


def test_the_hub_is_asked_for_the_onnx_model_where_there_are_no_safetensors(hub: FakeHub) -> None:
    hub.commits[COMMIT] = SMALL | ONNX | VARIANTS | AT_ROOT | OTHERS

    checkpoint = fetch()

    assert files_in(checkpoint.path) == SMALL | ONNX
    assert asked_for(hub) == {*SMALL, *ONNX}
    assert checkpoint.resolved_revision == COMMIT
    assert checkpoint.size_bytes == sum(map(len, ONNX.values()))


def test_the_hub_is_not_asked_for_it_where_there_are(hub: FakeHub) -> None:
    hub.commits[COMMIT] = SMALL | SAFETENSORS | ONNX | VARIANTS | AT_ROOT

    checkpoint = fetch()

    assert asked_for(hub) == {*SMALL, *SAFETENSORS}
    assert checkpoint.size_bytes == len(b"weights")


def test_weights_of_a_dense_module_are_not_those_of_the_model(hub: FakeHub) -> None:
    dense = {"2_Dense/model.safetensors": b"a few weights"}
    hub.commits[COMMIT] = SMALL | dense | AT_ROOT

    assert files_in(fetch().path) == SMALL | dense | AT_ROOT


def test_an_onnx_model_that_was_fetched_is_found_offline(hub: FakeHub) -> None:
    hub.commits[COMMIT] = SMALL | ONNX | VARIANTS
    repository = CheckpointRepository(source=CheckpointSource.HF, repo=REPO)
    first = fetch()
    num_requests = len(hub.requests)

    found = look_into_checkpoint(repository, config_directory=Path("/nowhere"), offline=True)

    assert fetch(offline=True) == first
    assert found == look_into_cache(repository)
    assert found.sizes == {name: len(content) for name, content in (SMALL | ONNX).items()}
    assert len(hub.requests) == num_requests


def test_a_look_into_the_hub_fetches_no_graph(hub: FakeHub) -> None:
    hub.commits[COMMIT] = SMALL | ONNX | VARIANTS
    repository = CheckpointRepository(source=CheckpointSource.HF, repo=REPO)

    found = look_into_checkpoint(repository, config_directory=Path("/nowhere"), offline=False)

    assert asked_for(hub) == {*SMALL}
    assert found.sizes["onnx/model.onnx_data"] == len(b"its weights")


@pytest.mark.parametrize(
    ("others", "found", "hint"),
    [
        (
            {"onnx/model_quantized.onnx": b"a graph"},
            "found `onnx/model_quantized.onnx`, and nothing but `model.onnx` is taken for float32",
            "export it in float32 as `onnx/model.onnx`",
        ),
        (
            {"pytorch_model.bin": b"a pickle"} | VARIANTS,
            "; found `pytorch_model.bin`, which is never loaded: it can run code",
            "convert it once",
        ),
        ({}, "and no `onnx/model.onnx`", "convert it once"),
    ],
    ids=["quantised", "pickle", "nothing"],
)
def test_a_repository_with_neither_is_refused_by_what_it_has(
    hub: FakeHub, others: dict[str, bytes], found: str, hint: str
) -> None:
    hub.commits[COMMIT] = SMALL | others

    with pytest.raises(CheckpointError) as raised:
        fetch()

    assert raised.value.message.endswith(found)
    assert str(raised.value.hint).startswith(hint)
    assert asked_for(hub) == {*SMALL}


def test_a_bucket_gives_the_onnx_model_alone(place: CachePlace) -> None:
    bucket = FakeBucket(SMALL | ONNX | VARIANTS | AT_ROOT | OTHERS)

    entry = fetch_from_bucket(bucket, place, pin=None)

    assert files_in(entry.checkpoint().path) == SMALL | ONNX


def test_a_bucket_gives_it_only_where_there_are_no_safetensors(place: CachePlace) -> None:
    bucket = FakeBucket(SMALL | SAFETENSORS | ONNX | VARIANTS | AT_ROOT)

    entry = fetch_from_bucket(bucket, place, pin=None)

    assert files_in(entry.checkpoint().path) == SMALL | SAFETENSORS


def test_an_onnx_model_that_changed_in_a_bucket_is_another_revision(place: CachePlace) -> None:
    first = fetch_from_bucket(FakeBucket(SMALL | ONNX), place, pin=None)
    changed = SMALL | ONNX | {"onnx/model.onnx": b"another graph"}

    second = fetch_from_bucket(FakeBucket(changed), place, pin=None)

    assert first.contents.resolved_revision != second.contents.resolved_revision
    assert files_in(second.files) == changed


def test_a_bucket_of_variants_is_refused_by_their_names(place: CachePlace) -> None:
    entry = fetch_from_bucket(FakeBucket(SMALL | VARIANTS), place, pin=None)

    with pytest.raises(CheckpointError, match=r"found `onnx/decoder_model\.onnx`"):
        entry.checkpoint()


@pytest.mark.parametrize("folder", ["", "model/"])
@pytest.mark.parametrize(("weights", "kept"), [({}, ONNX), (SAFETENSORS, SAFETENSORS)])
def test_an_archive_gives_the_onnx_model_where_there_are_no_safetensors(
    tmp_path: Path, folder: str, weights: dict[str, bytes], kept: dict[str, bytes]
) -> None:
    files = SMALL | weights | ONNX | VARIANTS | AT_ROOT
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(pack({f"{folder}{name}": content for name, content in files.items()}))
    (tmp_path / "files").mkdir()

    found = unpack(archive, tmp_path / "files", limits=ArchiveLimits(), place="https://host/model")

    assert files_in(found.root) == SMALL | kept
    assert found.kept.keys() == {*SMALL, *kept}
