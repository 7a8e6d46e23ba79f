"""An engine for NVIDIA GPUs: one portable graph in the GPU's number formats, and plans of it.

The graph is the same for every GPU; a plan is compiled of it for one kind. That needs the GPU, or
`tensorrt-rtx`, so a build without either leaves it to whoever serves first.

What a GPU would compute is computed here too, so that the gate can judge it: the very graph that
TensorRT gets is turned into one in float32 whose every rounding is arithmetic.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from beicli.artifact.directory import EngineArtifact, seal_artifact
from beicli.artifact.manifest import Manifest, ResidualPrecision
from beicli.artifact.report import AccuracyReport
from beicli.builder.gate import AccuracyGate
from beicli.builder.gpu_graph.prepare import load_prepared
from beicli.builder.gpu_layout import export_graph
from beicli.builder.gpu_quantized import write_as_quantized, write_quantized
from beicli.builder.gpu_stage import GpuStage
from beicli.errors import GpuUnavailableError, ToolMissingError, UsageError
from beicli.model.modelopt import ALGORITHM_PRECISIONS, read_modelopt_config
from beicli.tensorrt.api import load_trt
from beicli.tensorrt.driver import CudaDevice, read_device
from beicli.tensorrt.engine_plan import EnginePlan
from beicli.tensorrt.targets import check_precision, compiles_without_gpu

Writer = Callable[[GpuStage, Path], tuple[Manifest, AccuracyReport]]
# Beside the engine while it is built.
_EXPORT = "export"


def build_for_gpu(stage: GpuStage) -> tuple[Manifest, AccuracyReport]:
    """Write the engine and return its manifest, sealed, with its report."""
    exported = stage.staging / _EXPORT / "model.onnx"
    exported.parent.mkdir()
    with stage.step("Exported") as say:
        module, spec = stage.network.module, stage.network.spec
        say(f"ONNX, opset {export_graph(stage.request.layout, module, spec, exported)}")
    manifest, report = _choose_writer(stage)(stage, exported)
    shutil.rmtree(exported.parent)
    stage.tidy_up()
    manifest = seal_artifact(stage.staging, manifest)
    with stage.step("Compiled") as say:
        say(_compile(stage, manifest))
    return manifest, report


def _choose_writer(stage: GpuStage) -> Writer:
    """Return how the graph is written; raises UsageError for what cannot be."""
    stored = read_modelopt_config(stage.network.checkpoint)
    method = stage.request.method
    if stored is None:
        return _write_typed if method is None else write_quantized
    precision = ALGORITHM_PRECISIONS[stored.algorithm]
    check_precision(precision, stage.request.sm)
    if method not in {None, precision}:
        raise UsageError(
            f"the checkpoint is in {stored.algorithm} already, and `quantization_type` asks for "
            f"`{method}`",
            hint="write `quantization_type: no_quant`, and it is used as it is; or build from the "
            "16 bit checkpoint it was made from",
        )
    return write_as_quantized


def _write_typed(stage: GpuStage, exported: Path) -> tuple[Manifest, AccuracyReport]:
    """Write the graph in the first precision that the gate finds close."""
    first, *others = stage.precisions
    manifest, gate, report = _try_typed(stage, exported, first)
    for precision in others:
        # Whatever passes in 16 bit is taken: float32 is several times slower on GPUs.
        if report.passed:
            break
        stage.warn(
            f"{report.precision} is not precise enough, so this is in {precision}: {report.failure}"
        )
        manifest, gate, report = _try_typed(stage, exported, precision, gate)
    gate.pass_with(report)
    return manifest, report


def _try_typed(
    stage: GpuStage,
    exported: Path,
    precision: ResidualPrecision,
    gate: AccuracyGate | None = None,
) -> tuple[Manifest, AccuracyGate, AccuracyReport]:
    with stage.step("Typed") as say:
        manifest = stage.manifest_of(
            precision, stage.write_graph(load_prepared(exported), precision)
        )
        say(precision if precision == "f32" else f"{precision}; sums and heads in f32")
    with stage.step("Checked") as say:
        # What it computes the reference for stays the same.
        gate = gate or stage.make_gate(manifest)
        report = gate.compare_emulation(stage.emulation(manifest), precision)
        say(report.summary)
    return manifest, gate, report


def _compile(stage: GpuStage, manifest: Manifest) -> str:
    """Compile a plan if that can be done here; return in words what became of it."""
    request = stage.request
    deferred = f"the plan is compiled at first serve on sm{request.sm}"
    needs_gpu = not compiles_without_gpu(request.flavor, request.sm)
    device = _device(request.sm) if needs_gpu else None
    if needs_gpu and device is None:
        return f"{deferred}: there is no such GPU here"
    gpu_name = None if device is None else device.name
    artifact = EngineArtifact(stage.staging, manifest)
    try:
        trt = load_trt(request.flavor)
        plan = EnginePlan.of(trt, artifact, sm=request.sm, gpu_name=gpu_name)
        size_bytes = len(plan.get())
    except (ToolMissingError, GpuUnavailableError) as error:
        stage.warn(f"{error.message}: {error.hint}")
        return f"{deferred}: {error.message}"
    num_profiles = len(plan.identity.profiles)
    return (
        f"{request.flavor} {trt.__version__} for sm{request.sm}, {num_profiles} profiles, "
        f"{size_bytes / 1e6:,.1f} MB"
    )


def _device(sm: int) -> CudaDevice | None:
    """Return this machine's GPU if it is of that kind."""
    try:
        device = read_device(0)
    except GpuUnavailableError:
        return None
    return device if device.sm == sm else None
