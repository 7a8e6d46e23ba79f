import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.artifact.engines import CONTENT, MANIFEST, MODEL_FILE, fill

from beicli.artifact.directory import EngineArtifact, read_manifest, seal_artifact, stage_artifact
from beicli.artifact.manifest import FileEntry, dump_manifest
from beicli.artifact.names import MANIFEST_NAME, MAX_MANIFEST_BYTES
from beicli.errors import ArtifactError


def test_a_sealed_directory_opens(engine: Path) -> None:
    artifact = EngineArtifact.open(engine)

    assert artifact.path == engine
    assert artifact.manifest.name == "tiny"
    assert sorted(artifact.manifest.files) == ["config.yaml", MODEL_FILE]
    assert artifact.manifest.files[MODEL_FILE].size_bytes == len(CONTENT)


def test_a_sealed_directory_opens_wherever_it_is_moved(engine: Path, tmp_path: Path) -> None:
    shutil.move(engine, tmp_path / "elsewhere")

    assert EngineArtifact.open(tmp_path / "elsewhere").manifest.name == "tiny"


def test_sealing_again_takes_in_what_changed(tmp_path: Path) -> None:
    with stage_artifact(tmp_path / "engine") as staging:
        fill(staging)
        (staging / "report.json").write_text("{}")
        seal_artifact(staging, MANIFEST)

    assert "report.json" in EngineArtifact.open(tmp_path / "engine").manifest.files


@pytest.mark.parametrize("position", [0, len(CONTENT) // 2, len(CONTENT) - 1])
def test_one_flipped_byte_is_found(engine: Path, position: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[position] ^= 1
    (engine / MODEL_FILE).write_bytes(damaged)

    with pytest.raises(ArtifactError, match="is damaged") as raised:
        EngineArtifact.open(engine)

    assert str(engine / MODEL_FILE) in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"\n"])
def test_a_file_of_another_length_is_found(engine: Path, content: bytes) -> None:
    (engine / MODEL_FILE).write_bytes(content)

    with pytest.raises(ArtifactError, match="is damaged") as raised:
        EngineArtifact.open(engine)

    assert f"({len(content)} bytes, {len(CONTENT)} expected)" in raised.value.message


@pytest.mark.parametrize("name", [MODEL_FILE, "config.yaml"])
def test_a_missing_file_is_named(engine: Path, name: str) -> None:
    (engine / name).unlink()

    with pytest.raises(ArtifactError) as raised:
        EngineArtifact.open(engine)

    assert raised.value.message == f"`{engine / name}` is missing"


def test_a_directory_in_a_files_place_is_refused(engine: Path) -> None:
    (engine / MODEL_FILE).unlink()
    (engine / MODEL_FILE).mkdir()

    with pytest.raises(ArtifactError, match=r"model\.bin` is missing"):
        EngineArtifact.open(engine)


def test_a_link_in_a_files_place_is_refused_even_to_the_same_content(
    engine: Path, tmp_path: Path
) -> None:
    (engine / MODEL_FILE).rename(tmp_path / "outside.bin")
    (engine / MODEL_FILE).symlink_to(tmp_path / "outside.bin")

    with pytest.raises(ArtifactError, match=r"model\.bin` is a link"):
        EngineArtifact.open(engine)


def test_a_link_in_the_place_of_a_folder_is_refused_wherever_it_leads(
    engine: Path, tmp_path: Path
) -> None:
    folder = (engine / MODEL_FILE).parent
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")

    with pytest.raises(ArtifactError) as raised:
        EngineArtifact.open(engine)

    assert raised.value.message == f"`{folder}` is a link"


def test_a_link_in_the_manifests_place_is_refused(engine: Path, tmp_path: Path) -> None:
    (engine / MANIFEST_NAME).rename(tmp_path / "outside.json")
    (engine / MANIFEST_NAME).symlink_to(tmp_path / "outside.json")

    with pytest.raises(ArtifactError, match=r"manifest\.json` is a link"):
        EngineArtifact.open(engine)


def test_an_engine_is_opened_through_a_link_to_its_directory(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(engine)

    assert EngineArtifact.open(tmp_path / "current").manifest.name == "tiny"


def test_what_is_no_ordinary_file_is_not_read(engine: Path) -> None:
    (engine / MODEL_FILE).unlink()
    # Opening one waits for somebody who writes to it.
    os.mkfifo(engine / MODEL_FILE)

    with pytest.raises(ArtifactError, match=r"model\.bin` is missing"):
        EngineArtifact.open(engine)


@pytest.mark.parametrize("size_bytes", [-1, 0, len(CONTENT) + 1, 2**70])
def test_a_size_that_disagrees_with_the_file_is_found(engine: Path, size_bytes: int) -> None:
    sound = read_manifest(engine).files[MODEL_FILE]
    files = {MODEL_FILE: replace(sound, size_bytes=size_bytes)}
    (engine / MANIFEST_NAME).write_text(dump_manifest(replace(MANIFEST, files=files)))

    with pytest.raises(ArtifactError, match="damaged"):
        EngineArtifact.open(engine)


@pytest.mark.parametrize(
    "name", ["../outside.bin", "/etc/hostname", "a/../../outside.bin", "", "."]
)
def test_a_file_outside_the_directory_is_refused(engine: Path, name: str) -> None:
    outside = engine.parent / "outside.bin"
    outside.write_bytes(CONTENT)
    sound = read_manifest(engine).files[MODEL_FILE]
    (engine / MANIFEST_NAME).write_text(dump_manifest(replace(MANIFEST, files={name: sound})))

    with pytest.raises(ArtifactError, match="lies outside the directory"):
        EngineArtifact.open(engine)


@pytest.mark.parametrize("name", ["x" * 5000, "nul\x00byte", MODEL_FILE + "/deeper"])
def test_a_name_that_no_file_can_have_is_refused(engine: Path, name: str) -> None:
    files = {name: FileEntry(sha256="0" * 64, size_bytes=1)}
    (engine / MANIFEST_NAME).write_text(dump_manifest(replace(MANIFEST, files=files)))

    with pytest.raises(ArtifactError):
        EngineArtifact.open(engine)


def test_a_damaged_manifest_is_refused(engine: Path) -> None:
    text = (engine / MANIFEST_NAME).read_text()
    (engine / MANIFEST_NAME).write_text(text[: len(text) // 2])

    with pytest.raises(ArtifactError, match=r"`manifest\.json` is not JSON"):
        EngineArtifact.open(engine)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 6])
def test_a_manifest_of_an_older_or_newer_format_is_refused(engine: Path, version: int) -> None:
    data = json.loads((engine / MANIFEST_NAME).read_text())
    (engine / MANIFEST_NAME).write_text(json.dumps(data | {"format_version": version}))

    with pytest.raises(ArtifactError, match=f"format version {version}") as caught:
        EngineArtifact.open(engine)
    assert "bei build" in (caught.value.hint or "")


def test_a_manifest_that_is_no_text_is_refused(engine: Path) -> None:
    (engine / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ArtifactError, match="is not UTF-8 text"):
        EngineArtifact.open(engine)


def test_a_manifest_of_unreasonable_size_is_not_read(engine: Path) -> None:
    # Sparse: it takes no room on the disk.
    os.truncate(engine / MANIFEST_NAME, MAX_MANIFEST_BYTES + 1)

    with pytest.raises(ArtifactError, match="too large for a manifest"):
        EngineArtifact.open(engine)


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist; an engine directory is wanted"):
        EngineArtifact.open(tmp_path / "nowhere")


def test_a_file_is_no_engine_directory(engine: Path) -> None:
    with pytest.raises(ArtifactError, match="is a file; an engine directory is wanted"):
        EngineArtifact.open(engine / MANIFEST_NAME)


def test_a_directory_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not an engine directory: it has no `manifest\.json`"):
        EngineArtifact.open(tmp_path)


def test_a_checkpoint_is_recognised_and_the_way_to_an_engine_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ArtifactError) as raised:
        EngineArtifact.open(tmp_path)

    assert "looks like a checkpoint" in str(raised.value.hint)


def test_a_manifest_with_other_line_endings_is_another_manifest(engine: Path) -> None:
    manifest = engine / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes().replace(b"\n", b"\r\n"))

    with pytest.raises(ArtifactError, match="was changed after the build"):
        EngineArtifact.open(engine)
