"""For packages that already hold what is wanted: a finished checkpoint, or plain text files."""

import shutil
from collections.abc import Mapping
from pathlib import Path


def copy_package(sources: Mapping[str, Path], output: Path) -> None:
    (source,) = sources.values()
    shutil.copytree(source, output, dirs_exist_ok=True)
