import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sources.archives import FILES, KEPT, entry, pack

from beicli.errors import CheckpointError
from beicli.sources.archive import ArchiveLimits, Unpacked, unpack

SMALL = ArchiveLimits(max_entries=50, max_unpacked_bytes=2**20, max_ratio=20, min_ratio_bytes=2**16)


def unpacked(folder: Path, content: bytes, limits: ArchiveLimits = SMALL) -> Unpacked:
    archive = folder / "model.tar.gz"
    archive.write_bytes(content)
    (folder / "files").mkdir()
    return unpack(archive, folder / "files", limits=limits, place="https://host/model.tar.gz")


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def test_what_a_build_reads_is_kept_and_everything_is_counted(tmp_path: Path) -> None:
    found = unpacked(tmp_path, pack())

    assert files_in(found.root) == KEPT
    assert found.sizes == {name: len(content) for name, content in FILES.items()}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_one_folder_around_all_files_is_looked_through(tmp_path: Path, form: int) -> None:
    content = pack({f"model/{name}": FILES[name] for name in FILES}, form=form)

    assert files_in(unpacked(tmp_path, content).root) == KEPT


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_longer_than_a_header_are_read(tmp_path: Path, form: int) -> None:
    name = f"{'deep/' * 40}config.json"

    found = unpacked(tmp_path, pack({"config.json": b"{}", name: b"{}"}, form=form))

    assert name in found.kept


@pytest.mark.parametrize(
    ("hostile", "what"),
    [
        (entry("/etc/config.json"), "unsafe name"),
        (entry("../config.json"), "unsafe name"),
        (entry("1_Pooling/../../config.json"), "unsafe name"),
        (entry("a\\b.json"), "unsafe name"),
        (entry("../picture.png"), "unsafe name"),
        (entry("a\\b.png"), "unsafe name"),
        (entry(f"{'n' * 260}.json"), "unsafe name"),
        (entry("a\nb.json"), "unsafe name"),
        (entry("..", type=tarfile.DIRTYPE), "unsafe name"),
        (entry("a.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "holds a link"),
        (entry("a.json", type=tarfile.LNKTYPE, linkname="config.json"), "hard link"),
        (entry("a.json", type=tarfile.FIFOTYPE), "`'a.json'`"),
        (entry("a.json", type=tarfile.CHRTYPE), "`'a.json'`"),
        (entry("config.json"), "twice"),
        (entry("config.json/a.json"), "as a file and as a folder"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_a_hostile_entry_is_refused_by_name(
    tmp_path: Path, hostile: tarfile.TarInfo, what: str
) -> None:
    with pytest.raises(CheckpointError, match=what):
        unpacked(tmp_path, pack(FILES, hostile))

    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"model.tar.gz", "files"}


def test_a_name_that_nobody_reads_may_be_odd(tmp_path: Path) -> None:
    odd = {"Screenshot 3.41\u202fPM.png": b"colours", f"{'n' * 260}.png": b"colours"}

    found = unpacked(tmp_path, pack(FILES | odd))

    assert files_in(found.root) == KEPT
    assert all(name.isprintable() for name in found.sizes)


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    content = pack({"config.json": b"{}", "model.safetensors": bytes(2**20 - 10_000)})

    with pytest.raises(CheckpointError, match="unpacks to more than 20 times its size"):
        unpacked(tmp_path, content)

    assert sum(map(len, files_in(tmp_path / "files").values())) < 2**18


def test_an_archive_that_is_too_large_is_refused(tmp_path: Path) -> None:
    limits = ArchiveLimits(max_entries=50, max_unpacked_bytes=100_000, max_ratio=1000)

    with pytest.raises(CheckpointError, match=r"unpacks to more than 0\.0 GB"):
        unpacked(tmp_path, pack(), limits)


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    files = {f"{number}.json": b"{}" for number in range(60)}

    with pytest.raises(CheckpointError, match="more than 50 entries"):
        unpacked(tmp_path, pack(files))


@pytest.mark.parametrize("content", [b"", b"<html>login</html>", b"PK\x03\x04" * 500])
def test_what_is_no_archive_is_called_that(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"is no tar\.gz file|is cut off"):
        unpacked(tmp_path, content)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path, kept: float) -> None:
    content = pack()

    with pytest.raises(CheckpointError, match="cut off"):
        unpacked(tmp_path, content[: int(len(content) * kept)])


@given(place=st.integers(10, 1_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    content = bytearray(pack())
    content[place % len(content)] ^= 1 << bit
    folder = tmp_path_factory.mktemp("flipped")

    try:
        found = unpacked(folder, bytes(content))
    except CheckpointError:
        return

    assert files_in(found.root) == KEPT
