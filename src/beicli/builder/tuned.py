"""Has a finished engine measured, and records how it is fastest on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest, Precision, Tuning

# Measures an engine directory, in one of these precisions where there are any to choose from.
Tune = Callable[[EngineArtifact, Sequence[Precision]], tuple[Precision, Tuning]]


def tune_engine(staging: Path, manifest: Manifest, tune: Tune, *, may_choose: bool) -> Manifest:
    """Return the manifest with what was found, and the precision that goes with it.

    may_choose: whether float32 may take the place of another precision. Where it is no slower there
    is no reason to give up any of it.
    """
    precisions: tuple[Precision, ...] = ("f32", manifest.precision) if may_choose else ()
    precision, tuning = tune(EngineArtifact(staging, manifest), precisions)
    return replace(manifest, precision=precision, tuning=tuning)
