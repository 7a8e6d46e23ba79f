"""Engines whose files are damaged under right hashes, so that whoever loads them finds out."""

from collections.abc import Callable
from pathlib import Path

from beicli.artifact.directory import EngineArtifact, seal_artifact, stage_artifact


def truncate(path: Path) -> None:
    """Leave the first 1,000 bytes."""
    path.write_bytes(path.read_bytes()[:1000])


def damaged(
    artifact: EngineArtifact, directory: Path, file: str, damage: Callable[[Path], None]
) -> EngineArtifact:
    """Copy the folder that holds `file`, such as `openvino/model.xml`, damage it, and seal."""
    folder = Path(file).parent
    with stage_artifact(directory / "engine") as staging:
        (staging / folder).mkdir()
        for source in (artifact.path / folder).iterdir():
            (staging / folder / source.name).write_bytes(source.read_bytes())
        damage(staging / file)
        seal_artifact(staging, artifact.manifest)
    return EngineArtifact.open(directory / "engine")
