"""TensorRT-LLM on a GPU: a process of its own, which is started again if it ends.

Never run on a GPU by its authors: what is known of TensorRT-LLM is read in its sources. So the
numbers are compared with the checkpoint's own each time an engine is loaded.
"""

import os
import threading
from collections.abc import Callable
from typing import Self

import numpy as np

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest, Precision
from beicli.artifact.tensorrt_llm import LLM_CHECKPOINT, Probe, read_probe
from beicli.engine.batch import Batch, EngineOutput
from beicli.engine.options import EngineOptions
from beicli.engine.tensorrt_llm.environment import find_environment
from beicli.engine.tensorrt_llm.process import WorkerOptions, WorkerProcess
from beicli.errors import ArtifactError, GpuUnavailableError
from beicli.tensorrt.driver import read_driver

# One pass at a time, so it may as well be large; not measured.
PREFERRED_NUM_TOKENS = 8192

_DTYPES = {"bf16": "bfloat16", "f16": "float16"}
# How far all outputs of the probe may be from those in float32, relative to their size.
_MAX_ERROR: dict[Precision, float] = {"bf16": 0.05, "f16": 0.02, "fp8": 0.15, "fp4": 0.4}
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class TensorRtLlmEngine:
    """A model in a worker; `forward` takes one batch at a time."""

    def __init__(
        self,
        start: Callable[[], WorkerProcess],
        manifest: Manifest,
        probe: Probe,
        *,
        preferred_num_tokens: int,
    ) -> None:
        """Start the worker; raises ArtifactError if its numbers are not the checkpoint's."""
        self._start = start
        self._takes_type_ids = manifest.model.takes_token_type_ids
        self._preferred_num_tokens = preferred_num_tokens
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = start()
        try:
            _check(self._encode(_batch_of(probe)), probe, manifest.precision)
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(cls, artifact: EngineArtifact, options: EngineOptions) -> Self:
        """Load the checkpoint inside in the environment that has TensorRT-LLM.

        Raises ToolMissingError, GpuUnavailableError or ArtifactError if that cannot be.
        """
        manifest = artifact.manifest
        environment = find_environment()
        visible = _visible_device(options)
        limits = manifest.limits
        worker_options = WorkerOptions(
            python=environment.python,
            model=artifact.path.absolute() / LLM_CHECKPOINT,
            dtype=_DTYPES[manifest.residual_precision],
            max_batch_size=limits.max_batch_size,
            max_num_tokens=limits.max_num_tokens,
            max_seq_len=limits.max_input_length,
            variables={_VISIBLE: visible},
        )
        preferred = options.preferred_num_tokens or PREFERRED_NUM_TOKENS
        return cls(
            lambda: WorkerProcess(worker_options),
            manifest,
            read_probe(artifact.path),
            preferred_num_tokens=min(preferred, limits.max_num_tokens),
        )

    @property
    def num_slots(self) -> int:
        return 1

    @property
    def preferred_num_tokens(self) -> int:
        return self._preferred_num_tokens

    def padded_length(self, num_tokens: int) -> int:
        """Nothing is padded."""
        return num_tokens

    def forward(self, batch: Batch) -> EngineOutput:
        """Run one batch; raises EngineError.

        A worker that has ended is started again for the next batch, not for the one that ended it.
        """
        return EngineOutput(pooled=self._encode(batch))

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            if self._worker is not None:
                self._worker.close()
                self._worker = None

    def _encode(self, batch: Batch) -> np.ndarray:
        with self._lock:
            assert self._worker is not None, "no forward follows close"
            if not self._worker.is_alive:
                self._worker.close()
                self._worker = self._start()
            type_ids = batch.token_type_ids
            if self._takes_type_ids and type_ids is None:
                type_ids = np.zeros_like(batch.input_ids)
            lengths = np.diff(batch.cu_seqlens).tolist()
            return self._worker.encode(
                lengths, batch.input_ids, type_ids if self._takes_type_ids else None
            )


def _batch_of(probe: Probe) -> Batch:
    return Batch(
        input_ids=probe.input_ids,
        cu_seqlens=probe.cu_seqlens,
        token_type_ids=probe.token_type_ids,
    )


def _check(outputs: np.ndarray, probe: Probe, precision: Precision) -> None:
    error, allowed = probe.error(outputs), _MAX_ERROR[precision]
    if error <= allowed:
        return
    raise ArtifactError(
        f"TensorRT-LLM computes other numbers than the checkpoint: their relative error is "
        f"{error:.3g}, and {allowed:g} is allowed in {precision}",
        hint="its version has another network under this name; build with `--backend tensorrt`",
    )


def _visible_device(options: EngineOptions) -> str:
    """Return what the worker is to see, of what this process sees."""
    devices = read_driver().devices
    index = options.gpu.device_index
    if index is None:
        index = options.replica_number % len(devices)
    if index >= len(devices):
        raise GpuUnavailableError(
            f"there is no GPU {index}: the driver shows {len(devices)}, counted from 0",
            hint="choose another with `--device-id`",
        )
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    return visible[index] if index < len(visible) else str(index)
