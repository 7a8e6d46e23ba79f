"""An engine of OpenVINO: ONNX to its IR, and which precision this CPU computes."""

import shutil
from pathlib import Path

from beicli.artifact.manifest import OPENVINO_MODEL, Precision, TensorInfo
from beicli.builder.backend import Network, Step
from beicli.builder.graph import TORCH_HINT, export_onnx, failure_hint
from beicli.errors import BuildError, UsageError
from beicli.machine import this_machine
from beicli.openvino_api import ov

TOOLCHAIN: tuple[str, ...] = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "openvino",
    "tokenizers",
    "numpy",
)
# Encoders in which every token sees every other; a window or a decoder hides more than padding.
MASKED_BY_PADDING_ALONE = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "albert"}
)
# Without one of these 8 bit is emulated, and slower than 32.
_8_BIT_FEATURES = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}


def supports_bf16() -> bool:
    """Whether this CPU multiplies in bf16 (AVX512_BF16 or AMX), rather than emulating it."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def choose_precision(asked: Precision | None) -> Precision:
    """bf16 where the CPU has it, else f32; refuse bf16 on a CPU without it."""
    has_bf16 = supports_bf16()
    if asked == "f16":
        raise UsageError(
            "`--precision f16` is computed by GPUs; CPUs compute f32, and bf16 where they have it",
            hint="use `--precision bf16` or `f32`, or name a GPU with `--target`",
        )
    if asked is None:
        return "bf16" if has_bf16 else "f32"
    if asked == "bf16" and not has_bf16:
        raise UsageError(
            "`--precision bf16` was asked for, but this CPU does not compute bf16",
            hint="use `--precision f32`, or build on a CPU with AVX512_BF16 or AMX",
        )
    return asked


def cpu_features(precision: Precision) -> tuple[str, ...]:
    """What a CPU must have to serve this precision, as the manifest states it."""
    return ("bf16",) if precision == "bf16" else ()


def check_8_bit() -> None:
    """Raise UsageError on a CPU that does not multiply in 8 bit."""
    if not _8_BIT_FEATURES & set(this_machine().cpu_features):
        raise UsageError(
            "this CPU has no instructions that multiply in 8 bit (VNNI, AMX or dot products)",
            hint="write `quantization_type: no_quant`, or build on a CPU that has them",
        )


def write_engine(network: Network, staging: Path, step: Step) -> tuple[TensorInfo, ...]:
    """Export the network and write its IR below `staging`."""
    onnx_path = staging / "export" / "model.onnx"
    onnx_path.parent.mkdir()
    with step("Exported") as say:
        opset = export_onnx(network.module, network.spec, onnx_path)
        say(f"ONNX, opset {opset}")
    with step("Compiled") as say:
        outputs = convert(
            onnx_path,
            staging,
            hint=failure_hint(network.module),
            is_guarded=network.spec.model_type not in MASKED_BY_PADDING_ALONE,
        )
        shutil.rmtree(onnx_path.parent)
        say(_describe_precision(network))
    return outputs


def convert(
    onnx_path: Path, directory: Path, *, hint: str = TORCH_HINT, is_guarded: bool = True
) -> tuple[TensorInfo, ...]:
    """Write the IR below `directory`, weights in float32; return what it gives out.

    Precision is a hint when the IR is compiled, so every precision shares this file.
    hint: what is left to do with a graph that it cannot read.
    is_guarded: whether attention may meet rows that see no token at all; see `_drop_guards`.
    """
    target = directory / OPENVINO_MODEL
    target.parent.mkdir()
    try:
        model = ov.Core().read_model(onnx_path)
        if not is_guarded:
            _drop_guards(model)
        ov.save_model(model, target, compress_to_fp16=False)
    except RuntimeError as error:
        raise BuildError(f"OpenVINO cannot read the exported graph: {error}", hint=hint) from error
    return tuple(_describe(output) for output in model.outputs)


def _drop_guards(model: ov.Model) -> None:
    """Take out what turns the result of attention to 0 where a row sees no token.

    The exporter writes it for every mask: `Select(IsNaN(x), 0, x)`. Where a mask hides padding and
    nothing else, every row sees the first token, and the guard is 3 % of an engine in 8 bit.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Select":
            continue
        condition, _, otherwise = (node.input_value(number) for number in range(3))
        guard = condition.get_node()
        if guard.get_type_name() == "IsNaN" and guard.input_value(0) == otherwise:
            node.output(0).replace(otherwise)


def _describe_precision(network: Network) -> str:
    if network.is_precision_asked:
        return f"OpenVINO, {network.precision} as asked"
    why = "this CPU computes it" if network.precision == "bf16" else "this CPU has no bf16"
    return f"OpenVINO, {network.precision}: {why}"


def _describe(output: ov.Output) -> TensorInfo:
    names = ("batch", "length")
    shape = tuple(
        names[i] if dimension.is_dynamic else dimension.get_length()
        for i, dimension in enumerate(output.get_partial_shape())
    )
    return TensorInfo(name=output.get_any_name(), dtype="float32", shape=shape)
