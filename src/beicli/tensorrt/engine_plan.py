"""The plan of an engine directory: what it is made of, where it is kept, and how it is compiled."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Self

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.gpu import PLANS_DIRECTORY, TENSORRT_GRAPH, Flavor, GpuTarget
from beicli.artifact.manifest import Manifest
from beicli.errors import UnfusedAttentionError
from beicli.tensorrt.compiler import CompileOptions, compile_plan
from beicli.tensorrt.plans import PlanIdentity, PlanStore
from beicli.tensorrt.profiles import input_shapes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """A plan that exists or can be compiled.

    directory: of the engine. store: where the plan is kept.
    """

    trt: ModuleType
    directory: Path
    manifest: Manifest
    identity: PlanIdentity
    store: PlanStore

    @classmethod
    def of(
        cls,
        trt: ModuleType,
        artifact: EngineArtifact,
        *,
        sm: int,
        gpu_name: str | None,
        plan_cache: Path | None = None,
    ) -> Self:
        """Return the plan of an engine for a GPU.

        gpu_name: of the GPU that compiles; None if the plan is compiled without one.
        plan_cache: where plans are kept; None keeps them in the engine directory if it can be
            written, else in the user's cache.
        """
        directory, manifest = artifact.path, artifact.manifest
        target = gpu_target(manifest)
        is_for_one_model = target.hardware_compatibility == "none"
        identity = PlanIdentity(
            graph_sha256=tuple(
                (name, entry.sha256)
                for name, entry in sorted(manifest.files.items())
                if name.startswith(f"{Path(TENSORRT_GRAPH).parent}/")
            ),
            precision=manifest.precision,
            profiles=target.profiles,
            flavor=flavor_of(manifest),
            version=trt.__version__,
            sm=sm,
            # A plan of RTX is finished for the very GPU when it is loaded.
            gpu_name=gpu_name if is_for_one_model and manifest.backend == "tensorrt" else None,
            hardware_compatibility=target.hardware_compatibility,
        )
        return cls(trt, directory, manifest, identity, _choose_store(directory, plan_cache))

    def get(self, *, may_compile: bool = True) -> bytes:
        """Return the plan, compiled if need be; raises PlanError if there is none."""
        return self.store.get_or_compile(self.identity, self._compile, may_compile=may_compile)

    def recompile(self, refused: bytes) -> bytes:
        """Compile a plan anew that does not load; raises PlanError if it cannot."""
        return self.store.recompile(self.identity, refused, self._compile)

    @property
    def runtime_cache_path(self) -> Path:
        """Where tensorrt-rtx keeps the kernels that it finishes for the very GPU."""
        return self.store.directory / f"{self.identity.key}.kernels"

    def _compile(self) -> bytes:
        target = gpu_target(self.manifest)
        options = CompileOptions(
            flavor=self.identity.flavor,
            sm=self.identity.sm,
            profiles=[input_shapes(self.manifest.inputs, each) for each in target.profiles],
            hardware_compatibility=target.hardware_compatibility,
            is_attention_fused=self.manifest.residual_precision != "f32",
            timing_cache=self.store.timing_cache(self.identity),
        )
        graph = self.directory / TENSORRT_GRAPH
        try:
            return compile_plan(self.trt, graph, options)
        except UnfusedAttentionError as error:
            logger.warning("attention is several kernels, and slower for it: %s", error.message)
            return compile_plan(self.trt, graph, replace(options, is_attention_fused=False))


def gpu_target(manifest: Manifest) -> GpuTarget:
    """Return what an engine of TensorRT is compiled for."""
    assert manifest.gpu is not None, "an engine of TensorRT says what it is for"
    return manifest.gpu


def flavor_of(manifest: Manifest) -> Flavor:
    """Return which TensorRT compiles an engine and runs it."""
    match manifest.backend:
        case "tensorrt" | "tensorrt-rtx":
            return manifest.backend
        case other:
            raise AssertionError(f"{other} has no plans")


def _choose_store(directory: Path, plan_cache: Path | None) -> PlanStore:
    plans = directory / PLANS_DIRECTORY
    if plan_cache is not None:
        return PlanStore(plan_cache, also_read=plans)
    if os.access(plans if plans.is_dir() else plans.parent, os.W_OK):
        return PlanStore(plans)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return PlanStore(cache / "beicli" / "plans", also_read=plans)
