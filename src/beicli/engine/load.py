"""Opens the right engine for an engine directory."""

from typing import Protocol

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Backend
from beicli.engine.base import Engine
from beicli.engine.options import EngineOptions, tuned_options
from beicli.errors import ArtifactError
from beicli.machine import this_machine


def load_engine(artifact: EngineArtifact, options: EngineOptions) -> Engine:
    """Load the compiled model of `artifact`; raises ArtifactError if this machine cannot."""
    engine = _engine_class(artifact.manifest.backend)
    return engine.load(artifact, tuned_options(artifact.manifest, options, this_machine()))


class _EngineClass(Protocol):
    def load(self, artifact: EngineArtifact, options: EngineOptions) -> Engine: ...


def _engine_class(backend: Backend) -> _EngineClass:
    """Import the engine of a backend and what it computes with, and nothing of the others."""
    match backend:
        case "openvino":
            from beicli.engine.openvino import OpenVinoEngine  # noqa: PLC0415

            return OpenVinoEngine
        case "torch":
            try:
                from beicli.engine.torch import TorchEngine  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise ArtifactError(
                    f"this engine computes with torch, and the package `{error.name}` is not "
                    "installed",
                    hint="install it with `pip install 'beicli[build]'`, or build the engine with "
                    "`--backend openvino` where the model can be exported",
                ) from error
            return TorchEngine
        case "tensorrt" | "tensorrt-rtx":
            from beicli.engine.tensorrt import load as tensorrt  # noqa: PLC0415

            return tensorrt
        case "tensorrt-llm":
            from beicli.engine.tensorrt_llm.engine import TensorRtLlmEngine  # noqa: PLC0415

            return TensorRtLlmEngine
