"""What a supervisor and its replicas say to each other, over the pipe between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest

# To a replica: end; said twice, hurry.
STOP: Literal["stop"] = "stop"


@dataclass(frozen=True, slots=True)
class Ready:
    """From a replica: it accepts requests."""

    url: str


@dataclass(frozen=True, slots=True)
class Failed:
    """From a replica: it ends, or keeps its engine, for a reason that a person can understand."""

    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class ReloadAsked:
    """From a replica: a client asks for a reload, and waits for its `Outcome`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """To a replica: serve these engines from now on; answered with `Renewed`."""

    artifacts: Sequence[EngineArtifact]


@dataclass(frozen=True, slots=True)
class Renewed:
    """From a replica: it serves what it was told to, or why not."""

    failure: Failed | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """To a replica: how a reload ended, to count and to tell whoever asked.

    manifests: of what serves now, if there is no failure.
    """

    manifests: Sequence[Manifest]
    failure: Failed | None
    is_refused: bool = False
