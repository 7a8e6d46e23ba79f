"""The engine directory on disk: written aside and renamed when complete, verified when opened."""

import ctypes
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Self

from beicli.artifact.gpu import PLANS_DIRECTORY
from beicli.artifact.manifest import (
    FileEntry,
    Manifest,
    dump_manifest,
    parse_manifest,
)
from beicli.artifact.names import MANIFEST_NAME, MAX_MANIFEST_BYTES, has_manifest
from beicli.errors import ArtifactError, UsageError

_STAGING_MARK = ".bei-staging-"
_LOCK_NAME = ".lock"
# linux/fs.h and fcntl.h
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True, slots=True)
class EngineArtifact:
    """An engine directory whose every file is what its manifest says."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest and verify the size and sha256 of every file.

        Raises ArtifactError naming the file that is missing, damaged or foreign.
        """
        manifest = read_manifest(path)
        for name, entry in manifest.files.items():
            verify_file(path, name, entry)
        return cls(path=path, manifest=manifest)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an engine directory without looking at the other files."""
    try:
        return _read_manifest(path)
    except OSError as error:
        raise ArtifactError(f"`{path}` cannot be read: {error.strerror}") from error


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ArtifactError(
            f"`{path}` {found}; an engine directory is wanted",
            hint="make one with `bei build config.yaml --output ./engine`",
        )
    file = path / MANIFEST_NAME
    if file.is_symlink():
        raise ArtifactError(
            f"`{file}` is a link", hint="copy the whole directory again, or rebuild it"
        )
    if not file.is_file():
        hint = "make one with `bei build config.yaml --output ./engine`"
        if (path / "config.json").is_file():
            hint = f"this looks like a checkpoint: name it in a config.yaml and {hint}"
        raise ArtifactError(
            f"`{path}` is not an engine directory: it has no `{MANIFEST_NAME}`", hint=hint
        )
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"`{file}` is too large for a manifest")
    try:
        # Not `read_text`, which takes other line endings for the same text.
        return parse_manifest(file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ArtifactError(f"`{file}` is not UTF-8 text") from error


@contextmanager
def stage_artifact(output: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a hidden sibling of `output` to fill; rename it into place when the block ends well.

    Call `seal_artifact` inside the block. Whatever ends the block otherwise removes the sibling;
    siblings whose process was killed are removed by the next build. An existing `output` is
    refused, or replaced in one step with `force`.
    """
    # Through links: what is replaced is the directory, not a link to it.
    output = output.resolve()
    _check_output(output, force=force)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(output)
        staging, lock = _make_staging(output)
    except OSError as error:
        raise UsageError(
            f"`{output.parent}` cannot be written: {error.strerror}",
            hint="choose another `--output`",
        ) from error
    try:
        yield staging
        if not (staging / MANIFEST_NAME).is_file():
            raise AssertionError("an artifact must be sealed before its block ends")
        # Again: another build may have been quicker.
        _check_output(output, force=force)
        # mkdtemp makes it private; an engine directory is as readable as any other.
        staging.chmod(0o777 & ~_umask())
        _publish(staging, output)
        (output / _LOCK_NAME).unlink()
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def seal_artifact(staging: Path, manifest: Manifest) -> Manifest:
    """Hash every file below `staging` and write the manifest; may be called again after changes."""
    files = {
        path.relative_to(staging).as_posix(): FileEntry(
            sha256=sha256_of(path), size_bytes=path.stat().st_size
        )
        for path in sorted(staging.rglob("*"))
        if path.is_file()
        and path.name not in {MANIFEST_NAME, _LOCK_NAME}
        and not path.is_relative_to(staging / PLANS_DIRECTORY)
    }
    sealed = replace(manifest, files=files)
    (staging / MANIFEST_NAME).write_text(dump_manifest(sealed), encoding="utf-8")
    return sealed


def foreign_files(path: Path, manifest: Manifest) -> list[str]:
    """Return what lies in an engine directory though the manifest does not name it, sorted.

    A folder that cannot be read is foreign too, whatever is in it. Plans are not: they are compiled
    where the engine is served, and each has a record of its own.
    """
    known = {MANIFEST_NAME, *manifest.files}
    found: set[Path] = set()
    closed: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=closed.append):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found |= {Path(folder) / name for name in (*files, *links)}
    found |= {Path(error.filename) for error in closed}
    names = {file.relative_to(path).as_posix() for file in found} - known
    return sorted(name for name in names if not name.startswith(f"{PLANS_DIRECTORY}/"))


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_file(directory: Path, name: str, entry: FileEntry) -> None:
    """Raise ArtifactError if a file is not what the manifest says, or lies elsewhere."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise ArtifactError(f"`{MANIFEST_NAME}` names `{name}`, which lies outside the directory")
    file = directory / name
    try:
        # Folders on the way too: the file behind one may change, and lie anywhere.
        links = [part for part in _steps(directory, parts) if part.is_symlink()]
        if links or not file.is_file():
            found = f"`{links[0]}` is a link" if links else f"`{file}` is missing"
            raise ArtifactError(found, hint="copy the whole directory again, or rebuild it")
        size_bytes = file.stat().st_size
        is_sound = size_bytes == entry.size_bytes and sha256_of(file) == entry.sha256
    except OSError as error:
        raise ArtifactError(f"`{file}` cannot be read: {error.strerror}") from error
    if not is_sound:
        raise ArtifactError(
            f"`{file}` is damaged: its content does not match `{MANIFEST_NAME}` "
            f"({size_bytes} bytes, {entry.size_bytes} expected)",
            hint="copy the whole directory again, or rebuild it with `bei build`",
        )


def _steps(directory: Path, parts: PurePosixPath) -> list[Path]:
    """List the folders that lead to a file below `directory`, and the file."""
    return [directory.joinpath(*parts.parts[:end]) for end in range(1, len(parts.parts) + 1)]


def _check_output(output: Path, *, force: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(
            f"`{output}` is a file; an engine is a directory", hint="choose another `--output`"
        )
    is_engine = has_manifest(output)
    is_empty = not any(output.iterdir())
    if not is_engine and not is_empty:
        raise UsageError(
            f"`{output}` exists and is not an engine directory, so it is never replaced",
            hint="choose another `--output`",
        )
    if is_engine and not force:
        raise UsageError(
            f"`{output}` already holds an engine",
            hint="replace it with `--force`, or choose another `--output`",
        )


def _make_staging(output: Path) -> tuple[Path, int]:
    """Make a staging directory for `output` and lock it; the lock dies with this process."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{output.name}.bei-new-", dir=output.parent))
    lock = os.open(fresh / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Under this name only once it is locked, so no other build takes it for abandoned.
    staging = output.parent / fresh.name.replace(".bei-new-", _STAGING_MARK)
    fresh.rename(staging)
    return staging, lock


def _publish(staging: Path, output: Path) -> None:
    """Rename `staging` to `output`; an older engine there becomes `staging` in the same step."""
    if not output.exists():
        staging.rename(output)
    elif not _exchange(staging, output):
        # Not every file system can exchange: here a reader may find nothing for a moment.
        retired = staging.with_name(f"{staging.name}-old")
        output.rename(retired)
        try:
            staging.rename(output)
        except OSError:
            retired.rename(output)
            raise
        shutil.rmtree(retired, ignore_errors=True)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two directories in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    outcome: int = renameat2(
        _AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE
    )
    return outcome == 0


def _remove_abandoned(output: Path) -> None:
    """Remove staging directories whose process holds no lock any more: it was killed."""
    for leftover in output.parent.glob(f".{glob.escape(output.name)}{_STAGING_MARK}*"):
        if not _is_locked(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_locked(staging: Path) -> bool:
    try:
        lock = os.open(staging / _LOCK_NAME, os.O_RDWR)
    except FileNotFoundError:
        # It was published, or it is the engine that was replaced; either way only a rest.
        return False
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
