"""How large an engine will be, before it is built."""

from collections.abc import Iterator
from dataclasses import dataclass

from beicli.config.schema import Config, QuantizationType
from beicli.model.spec import ModelSpec

_MB = 1_000_000
# Measured with `bei serve` on MiniLM (22.7 M parameters) and a small XLM-R (39.8 M): the process
# without a model, and bytes a parameter: the float32 IR, mapped, and what the plugin makes of it.
_PROCESS_BYTES = 80 * _MB
_OPENVINO_BYTES_PER_WEIGHT = {"bf16": 9, "f32": 10, "int8": 7}
_IR_BYTES_PER_WEIGHT = {"bf16": 4, "f32": 4, "int8": 1}
_IN_8_BIT = {QuantizationType.WEIGHTS_INT8, QuantizationType.SMOOTH_QUANT}
# A CPU's batches are cut where throughput stops growing, in two slots.
_CPU_TOKENS_AT_ONCE = 4096
_TENSORRT_BYTES_PER_WEIGHT = {"fp16": 2.0, "fp8": 1.0, "fp4": 0.5}
# Live tensors of one layer: input, queries, keys, values, and the two of the wide MLP.
_LIVE_WIDTHS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeEstimate:
    """What one backend needs, within a factor of about one and a half.

    engine_bytes: of the directory. memory_bytes: of the serving process, or of the GPU.
    """

    backend: str
    precision: str
    engine_bytes: int
    memory_bytes: int


def estimate_sizes(
    config: Config, spec: ModelSpec, *, num_parameters: int
) -> tuple[SizeEstimate, ...]:
    """Estimate every backend and precision that a build may choose by itself.

    That leaves out torch, which has to be asked for.
    """
    return (*_on_cpu(config, spec, num_parameters), _on_gpu(config, spec, num_parameters))


def _on_cpu(config: Config, spec: ModelSpec, num_parameters: int) -> Iterator[SizeEstimate]:
    num_tokens = min(config.trt_llm.build.max_num_tokens, _CPU_TOKENS_AT_ONCE)
    is_8_bit = config.trt_llm.build.quantization_type in _IN_8_BIT
    for precision in ("int8",) if is_8_bit else ("bf16", "f32"):
        bytes_per_weight = _OPENVINO_BYTES_PER_WEIGHT[precision]
        yield SizeEstimate(
            backend="openvino",
            precision=precision,
            engine_bytes=_IR_BYTES_PER_WEIGHT[precision] * num_parameters,
            memory_bytes=_PROCESS_BYTES
            + bytes_per_weight * num_parameters
            + _activation_bytes(spec, num_tokens, bytes_per_value=4),
        )


def _on_gpu(config: Config, spec: ModelSpec, num_parameters: int) -> SizeEstimate:
    build = config.trt_llm.build
    precision = _gpu_precision(build.quantization_type)
    weights = int(_TENSORRT_BYTES_PER_WEIGHT[precision] * num_parameters)
    return SizeEstimate(
        backend="tensorrt",
        precision=precision,
        engine_bytes=weights,
        memory_bytes=weights + _activation_bytes(spec, build.max_num_tokens, bytes_per_value=2),
    )


def _gpu_precision(quantization: QuantizationType) -> str:
    return quantization.value[:3] if quantization.value.startswith(("fp8", "fp4")) else "fp16"


def _activation_bytes(spec: ModelSpec, num_tokens: int, *, bytes_per_value: int) -> int:
    """Bytes of what is alive in one layer for `num_tokens` at once."""
    return num_tokens * spec.hidden_size * _LIVE_WIDTHS * bytes_per_value
