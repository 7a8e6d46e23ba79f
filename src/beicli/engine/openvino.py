"""OpenVINO on CPUs: several streams, one infer request each, padded batches."""

import queue
from collections.abc import Collection
from typing import Self

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import OPENVINO_MODEL, TOKEN_OUTPUTS, Manifest
from beicli.engine.batch import Batch, EngineOutput, Float32, TokenSequence, padded_inputs
from beicli.engine.options import EngineOptions
from beicli.engine.packing import is_packed, packed_inputs
from beicli.errors import ArtifactError
from beicli.machine import available_cpus
from beicli.openvino_api import ov

# Padded tokens past which a batch gains next to nothing: one thread computed 8.06, 8.17 and 7.36
# thousand tokens/s at 1,024, 2,048 and 4,096 of them (benchmarks/LOG.md). The smaller batch also
# ends sooner, for whoever waits behind it.
PREFERRED_NUM_TOKENS = 1024
# Up to so many tokens a length is a multiple of the second number.
_LENGTH_STEPS: tuple[tuple[float, int], ...] = ((16, 4), (64, 8), (float("inf"), 16))


class OpenVinoEngine:
    """A compiled OpenVINO model; `forward` may be called from `num_slots` threads."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        manifest: Manifest,
        *,
        num_slots: int,
        preferred_num_tokens: int,
    ) -> None:
        self._model = manifest.model
        # Of an engine for GPUs, which is computed here to be judged.
        self._is_packed = is_packed(manifest.inputs)
        self._max_input_length = manifest.limits.max_input_length
        names = [output.name for output in manifest.outputs]
        self._pooled = next((name for name in names if name not in TOKEN_OUTPUTS), None)
        self._tokens = next((name for name in names if name in TOKEN_OUTPUTS), None)
        self._preferred_num_tokens = preferred_num_tokens
        self._num_slots = num_slots
        self._compiled: ov.CompiledModel | None = compiled
        self._free: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(num_slots):
            self._free.put(compiled.create_infer_request())

    @classmethod
    def load(cls, artifact: EngineArtifact, options: EngineOptions) -> Self:
        """Compile the IR for this CPU in the precision its manifest names."""
        manifest = artifact.manifest
        core = ov.Core()
        _check_precision(core, manifest)
        threads = options.num_threads or available_cpus()
        slots = options.num_slots or default_num_slots(threads)
        preferred = options.preferred_num_tokens or PREFERRED_NUM_TOKENS
        # The hints of the IR's compile step: throughput comes from our own batches and slots,
        # so OpenVINO gets exactly as many streams as we have threads calling it.
        properties = {
            "INFERENCE_PRECISION_HINT": manifest.residual_precision,
            "NUM_STREAMS": str(slots),
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": False,
        }
        if manifest.quantization is not None:
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(
                manifest.quantization.dynamic_group_size
            )
        try:
            compiled = core.compile_model(
                core.read_model(artifact.path / OPENVINO_MODEL), "CPU", properties
            )
        except RuntimeError as error:
            raise ArtifactError(
                f"OpenVINO cannot compile `{artifact.path / OPENVINO_MODEL}`: {error}",
                hint="rebuild the engine with `bei build` on this machine",
            ) from error
        engine = cls(
            compiled,
            manifest,
            num_slots=slots,
            preferred_num_tokens=min(preferred, manifest.limits.max_num_tokens),
        )
        # Now, while one thread has the engine: the bindings set themselves up at their first call,
        # and two first calls at once wait for each other for ever (OpenVINO 2026.4).
        for _ in range(slots):
            engine.forward(Batch.from_sequences([TokenSequence(np.zeros(1, dtype=np.int32))]))
        return engine

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def preferred_num_tokens(self) -> int:
        return self._preferred_num_tokens

    def padded_length(self, num_tokens: int) -> int:
        return max(num_tokens, min(round_up_length(num_tokens), self._max_input_length))

    def forward(self, batch: Batch) -> EngineOutput:
        """Run one batch on a free infer request."""
        is_token = batch.is_token(self.padded_length(batch.longest))
        if self._is_packed:
            inputs = packed_inputs(batch, is_token, batch.num_tokens, self._model)
        else:
            inputs = padded_inputs(batch, is_token, self._model)
        request = self._free.get()
        try:
            # Without share_inputs a larger batch than the last fails: the old tensor is too small.
            outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
            # Shared outputs are overwritten by the next call on this request: copy them out.
            return EngineOutput(
                pooled=None if self._pooled is None else _copy(outputs[self._pooled]),
                tokens=self._without_padding(outputs[self._tokens], is_token)
                if batch.needs_tokens and self._tokens is not None
                else None,
            )
        finally:
            self._free.put(request)

    def _without_padding(self, tokens: Float32, is_token: NDArray[np.bool_]) -> Float32:
        return _copy(tokens) if self._is_packed else tokens[is_token]

    def close(self) -> None:
        """Drop the infer requests and the compiled model."""
        while not self._free.empty():
            self._free.get()
        self._compiled = None


def round_up_length(num_tokens: int) -> int:
    """Return the next length that the plugin computes quickly: of 4, 8 or 16 tokens a step.

    Attention goes by 16 numbers at a time and takes what is left over one by one: all-MiniLM-L6-v2
    in int8 took 32.5 us a token at 16 x 64, 40.1 at 16 x 63 and 32.9 at 16 x 65. Beside that every
    shape that is new costs 3 to 5 ms, in which kernels are made for it, so few shapes are better
    than many. What the steps add in padding is less than what they save (benchmarks/LOG.md).
    """
    step = next(step for limit, step in _LENGTH_STEPS if num_tokens <= limit)
    return -(-num_tokens // step) * step


def default_num_slots(num_threads: int) -> int:
    """One thread a slot on small machines, up to four on large ones.

    Streams of one thread lose nothing to synchronisation and hold up best beside other work; on
    many cores a few threads a slot keep a lone text's latency low.
    """
    threads_per_slot = min(max(num_threads // 8, 1), 4)
    return max(num_threads // threads_per_slot, 1)


def _check_precision(core: ov.Core, manifest: Manifest) -> None:
    if manifest.residual_precision == "f32":
        return
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capabilities:
        raise ArtifactError(
            "this engine computes in bf16, which this CPU does not have",
            hint="rebuild here with `bei build --precision f32`, or serve on a CPU with "
            "AVX512_BF16 or AMX",
        )


def _copy(values: Float32) -> Float32:
    return np.array(values, dtype=np.float32)


def missing_cpu_features(wanted: Collection[str]) -> list[str]:
    """Return which features that a manifest names this CPU does not have."""
    has = {name.lower() for name in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")}
    return [feature for feature in wanted if feature not in has]
