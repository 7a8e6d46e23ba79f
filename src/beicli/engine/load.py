"""Opens the right engine for an engine directory."""

from dataclasses import dataclass

from beicli.artifact.directory import EngineArtifact
from beicli.engine.base import Engine
from beicli.engine.openvino import OpenVinoEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine uses this machine.

    num_slots: forward passes at the same time; None chooses by the CPUs available.
    num_threads: CPU threads over all slots; None takes every CPU this process may use.
    """

    num_slots: int | None = None
    num_threads: int | None = None


def load_engine(artifact: EngineArtifact, options: EngineOptions) -> Engine:
    """Load the compiled model of `artifact`; raises ArtifactError if this machine cannot."""
    return OpenVinoEngine.load(
        artifact, num_slots=options.num_slots, num_threads=options.num_threads
    )
