"""How an engine uses this machine: what was said, or what tuning found."""

from dataclasses import dataclass, replace
from pathlib import Path

from beicli.artifact.manifest import Manifest
from beicli.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOptions:
    """How an engine uses a GPU.

    device_index: as CUDA counts; None gives each replica the next one, and begins anew after the
        last. may_compile: whether a plan that is not there may be compiled.
    plan_cache: where plans are kept; None keeps them in the engine directory if that can be
        written, else in the user's cache.
    max_cuda_graphs: recorded launches of small batches that each slot keeps; 0 records none.
    """

    device_index: int | None = None
    may_compile: bool = True
    plan_cache: Path | None = None
    max_cuda_graphs: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine uses this machine.

    num_slots: forward passes at the same time; None takes what suits the backend and the CPUs.
    num_threads: CPU threads over all slots; None takes every CPU this process may use.
    preferred_num_tokens: padded tokens where a batch is cut; None takes the backend's own.
    replica_number: which of several processes that serve together this is, from 0.
    gpu: how a GPU is used, by engines for one.
    """

    num_slots: int | None = None
    num_threads: int | None = None
    preferred_num_tokens: int | None = None
    replica_number: int = 0
    gpu: GpuOptions = GpuOptions()


def tuned_options(manifest: Manifest, options: EngineOptions, machine: Machine) -> EngineOptions:
    """Fill in what was found by tuning, if it was found on such a machine as this.

    What is set already stays. Slots and threads belong together: one set by hand leaves the other
    to the backend.
    """
    tuning = manifest.tuning
    if tuning is None or machine.differences(tuning.machine):
        return options
    if options.num_slots is None and options.num_threads is None:
        options = replace(options, num_slots=tuning.num_slots, num_threads=tuning.num_threads)
    if options.preferred_num_tokens is None:
        options = replace(options, preferred_num_tokens=tuning.preferred_num_tokens)
    return options
