"""torch on CPUs: the checkpoint's own network, padded batches, all threads on one of them."""

import threading
from typing import Self

import numpy as np
import torch

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import TOKEN_OUTPUTS, TORCH_CHECKPOINT, Manifest, Precision
from beicli.engine.batch import Batch, EngineOutput, Float32, padded_inputs
from beicli.engine.options import EngineOptions
from beicli.errors import ArtifactError, BeiError
from beicli.machine import available_cpus
from beicli.modeling.loading import load_module
from beicli.modeling.precision import convert
from beicli.modeling.tasks import TaskModule, graph_inputs

# That of the OpenVINO engine; on torch it has not been measured.
PREFERRED_NUM_TOKENS = 1024
# No engine of this backend is in f16: it is for the check of what a GPU computes in it.
_DTYPES: dict[Precision, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}


class TorchEngine:
    """A loaded network; `forward` may be called from `num_slots` threads."""

    def __init__(
        self,
        module: TaskModule,
        manifest: Manifest,
        *,
        num_slots: int,
        num_threads: int,
        preferred_num_tokens: int,
    ) -> None:
        """num_threads: of one slot."""
        self._module: TaskModule | None = module
        self._model = manifest.model
        self._input_names = [tensor.name for tensor in graph_inputs(manifest.model)]
        self._output_names = module.output_names
        self._preferred_num_tokens = preferred_num_tokens
        self._num_slots = num_slots
        self._num_threads = num_threads
        self._free = threading.Semaphore(num_slots)

    @classmethod
    def load(cls, artifact: EngineArtifact, options: EngineOptions) -> Self:
        """Load the checkpoint inside, in the precision its manifest names."""
        manifest = artifact.manifest
        module = _load_module(artifact)
        convert(module, _DTYPES[manifest.precision])
        # One pass at a time has every thread: torch shares out its products, and two passes side by
        # side would hold the activations of both.
        slots = options.num_slots or 1
        threads = max((options.num_threads or available_cpus()) // slots, 1)
        preferred = options.preferred_num_tokens or PREFERRED_NUM_TOKENS
        return cls(
            module,
            manifest,
            num_slots=slots,
            num_threads=threads,
            preferred_num_tokens=min(preferred, manifest.limits.max_num_tokens),
        )

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def preferred_num_tokens(self) -> int:
        return self._preferred_num_tokens

    def padded_length(self, num_tokens: int) -> int:
        return num_tokens

    def forward(self, batch: Batch) -> EngineOutput:
        """Run one batch, when one of the slots is free."""
        assert self._module is not None, "no forward follows close"
        is_token = batch.is_token()
        inputs = padded_inputs(batch, is_token, self._model)
        tensors = [torch.from_numpy(inputs[name]) for name in self._input_names]
        with self._free, torch.inference_mode():
            # Every thread keeps the number it first computed with, so it is set in the one that
            # computes. For threads that are yet to come it holds in the whole process.
            torch.set_num_threads(self._num_threads)
            values = self._module(*tensors)
        outputs = dict(zip(self._output_names, values, strict=True))
        pooled = [value for name, value in outputs.items() if name not in TOKEN_OUTPUTS]
        tokens = [value for name, value in outputs.items() if name in TOKEN_OUTPUTS]
        return EngineOutput(
            pooled=_to_numpy(pooled[0]) if pooled else None,
            tokens=tokens[0].numpy()[is_token] if batch.needs_tokens and tokens else None,
        )

    def close(self) -> None:
        """Drop the network."""
        self._module = None


def _load_module(artifact: EngineArtifact) -> TaskModule:
    path = artifact.path / TORCH_CHECKPOINT
    try:
        return load_module(path, artifact.manifest.model)
    except Exception as error:
        # transformers lets through whatever reading a bad file ran into.
        what = error.message if isinstance(error, BeiError) else f"{type(error).__name__}: {error}"
        raise ArtifactError(
            f"torch cannot load `{path}`: {what}",
            hint="rebuild the engine with `bei build` on this machine",
        ) from error


def _to_numpy(values: torch.Tensor) -> Float32:
    # A copy: it may be a view of all that the network gave out, which would be kept with it.
    return np.array(values.numpy(), dtype=np.float32)
