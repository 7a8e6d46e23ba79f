"""The seam between a build and what computes its engine: each backend is a module beside this one.

`build.py` chooses the module by the name of the backend; a new backend is a new module.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from beicli.artifact.manifest import Precision, TensorInfo
from beicli.model.spec import ModelSpec
from beicli.modeling.tasks import TaskModule

# Starts a step of the build under a name; what it gives is told what came of the step.
Step = Callable[[str], AbstractContextManager[Callable[[str], None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A loaded checkpoint, and what an engine of it is to compute in.

    checkpoint: its folder. module: its network, in float32 whatever the precision.
    is_precision_asked: whether the user named the precision.
    """

    checkpoint: Path
    spec: ModelSpec
    module: TaskModule
    precision: Precision
    is_precision_asked: bool


class EngineBackend(Protocol):
    """What a module of a backend has."""

    @property
    def TOOLCHAIN(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """Packages whose versions decide what the engine computes."""
        ...

    def choose_precision(self, asked: Precision | None) -> Precision:
        """Return what is computed in; raises UsageError if that cannot be what was asked for."""
        ...

    def cpu_features(self, precision: Precision) -> tuple[str, ...]:
        """Return what a CPU must have to serve this precision, as the manifest states it."""
        ...

    def write_engine(self, network: Network, staging: Path, step: Step) -> tuple[TensorInfo, ...]:
        """Write below `staging` whatever the engine loads, and return what it gives out.

        Raises BuildError if the backend cannot run such a network.
        """
        ...
