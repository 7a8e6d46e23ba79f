import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.artifact.engines import build, fill

from beicli.artifact import directory as directory_module
from beicli.artifact.directory import EngineArtifact, read_manifest, stage_artifact
from beicli.artifact.names import MANIFEST_NAME
from beicli.errors import ArtifactError, UsageError


def test_nothing_is_visible_until_the_block_ends(tmp_path: Path) -> None:
    output = tmp_path / "engine"

    with stage_artifact(output) as staging:
        fill(staging)
        assert not output.exists()
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())

    assert list(tmp_path.iterdir()) == [output]
    assert sorted(path.name for path in output.iterdir()) == [
        "config.yaml",
        MANIFEST_NAME,
        "openvino",
    ]


@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_block_that_ends_badly_leaves_nothing(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    def end_badly() -> None:
        raise ending

    with pytest.raises(ending):
        build(tmp_path / "engine", before_the_end=end_badly)

    assert list(tmp_path.iterdir()) == []


def test_a_block_that_ends_badly_leaves_an_older_engine_as_it_was(engine: Path) -> None:
    def end_badly() -> None:
        raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        build(engine, name="newer", force=True, before_the_end=end_badly)

    assert EngineArtifact.open(engine).manifest.name == "tiny"
    assert list(engine.parent.iterdir()) == [engine]


def test_a_block_that_forgets_to_seal_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="must be sealed"), stage_artifact(tmp_path / "engine"):
        pass

    assert list(tmp_path.iterdir()) == []


def test_missing_parents_of_the_output_are_made(tmp_path: Path) -> None:
    build(tmp_path / "a" / "b" / "engine")

    assert EngineArtifact.open(tmp_path / "a" / "b" / "engine").manifest.name == "tiny"


def test_an_output_below_a_file_is_refused(engine: Path) -> None:
    with (
        pytest.raises(UsageError, match="cannot be written"),
        stage_artifact(engine / MANIFEST_NAME / "engine"),
    ):
        pass


def test_an_existing_engine_is_refused(engine: Path) -> None:
    with pytest.raises(UsageError, match="already holds an engine") as raised:
        build(engine)

    assert "--force" in str(raised.value.hint)


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()

    build(tmp_path / "engine")

    assert EngineArtifact.open(tmp_path / "engine").manifest.name == "tiny"


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_never_replaced(tmp_path: Path, *, force: bool) -> None:
    (tmp_path / "engine").write_text("a letter")

    with pytest.raises(UsageError, match="is a file"):
        build(tmp_path / "engine", force=force)

    assert (tmp_path / "engine").read_text() == "a letter"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["letter.txt", MANIFEST_NAME])
def test_a_directory_that_is_no_engine_is_never_replaced(
    tmp_path: Path, name: str, *, force: bool
) -> None:
    # Browser extensions and web pages have a `manifest.json` too.
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / name).write_text('{"manifest_version": 3}')

    with pytest.raises(UsageError, match="is not an engine directory, so it is never replaced"):
        build(tmp_path / "engine", force=force)

    assert (tmp_path / "engine" / name).exists()


def test_force_replaces_an_engine(engine: Path) -> None:
    (engine / "left over").touch()

    build(engine, name="newer", force=True)

    assert EngineArtifact.open(engine).manifest.name == "newer"
    assert not (engine / "left over").exists()
    assert list(engine.parent.iterdir()) == [engine]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format_version": 1', '"format_version": 99'),
    ],
)
def test_force_replaces_an_engine_that_no_longer_opens(
    engine: Path, damage: Callable[[str], str]
) -> None:
    (engine / MANIFEST_NAME).write_text(damage((engine / MANIFEST_NAME).read_text()))

    build(engine, name="newer", force=True)

    assert EngineArtifact.open(engine).manifest.name == "newer"


def test_an_engine_is_there_at_every_moment_of_a_replacement(engine: Path) -> None:
    done = threading.Event()
    failures: list[ArtifactError] = []
    num_reads = 0

    def read_on() -> None:
        nonlocal num_reads
        while not done.is_set():
            num_reads += 1
            try:
                read_manifest(engine)
            except ArtifactError as error:
                failures.append(error)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        for number in range(50):
            build(engine, name=str(number), force=True)
    finally:
        done.set()
        reader.join()

    assert num_reads > 0
    assert failures == []


def test_force_replaces_an_engine_where_directories_cannot_be_exchanged(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "_exchange", lambda left, right: False)

    build(engine, name="newer", force=True)

    assert EngineArtifact.open(engine).manifest.name == "newer"
    assert list(engine.parent.iterdir()) == [engine]


def test_a_replacement_that_fails_halfway_brings_the_older_engine_back(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_to_publish(path: Path, target: Path) -> Path:
        if target == engine and not path.name.endswith("-old"):
            raise PermissionError("no")
        return rename(path, target)

    monkeypatch.setattr(directory_module, "_exchange", lambda left, right: False)
    monkeypatch.setattr(Path, "rename", fail_to_publish)

    with pytest.raises(PermissionError):
        build(engine, name="newer", force=True)

    assert EngineArtifact.open(engine).manifest.name == "tiny"
    assert list(engine.parent.iterdir()) == [engine]


def test_of_two_builds_of_one_output_the_slower_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "engine"

    def overtake() -> None:
        build(output, name="quicker")

    with pytest.raises(UsageError, match="already holds an engine"):
        build(output, name="slower", before_the_end=overtake)

    assert EngineArtifact.open(output).manifest.name == "quicker"
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_reached_through_a_link_is_replaced_where_it_lies(
    engine: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(engine)

    build(tmp_path / "link", name="newer", force=True)

    assert (tmp_path / "link").is_symlink()
    assert EngineArtifact.open(engine).manifest.name == "newer"
    assert sorted(tmp_path.iterdir()) == [engine, tmp_path / "link"]


@pytest.fixture
def umask_027() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_027")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    build(tmp_path / "engine")

    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "engine", *(tmp_path / "engine").rglob("*")]
    }
    assert modes == {
        "engine": 0o750,
        "openvino": 0o750,
        "model.bin": 0o640,
        "config.yaml": 0o640,
        MANIFEST_NAME: 0o640,
    }


def test_a_staging_directory_is_private(tmp_path: Path) -> None:
    with stage_artifact(tmp_path / "engine") as staging:
        assert stat.S_IMODE(staging.stat().st_mode) == 0o700
        fill(staging)
