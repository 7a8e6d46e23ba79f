"""What a build for a GPU has staged: a graph in some precision, and what emulates it on a CPU."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.gpu import TENSORRT_GRAPH, Flavor, GpuTarget, HardwareCompatibility, Layout
from beicli.artifact.manifest import Manifest, Precision, ResidualPrecision, TensorInfo
from beicli.builder.backend import Network, Step
from beicli.builder.gate import EMULATION, AccuracyGate, start_emulation
from beicli.builder.gpu_graph.emulate import emulate
from beicli.builder.gpu_graph.plan import GpuMethod
from beicli.builder.gpu_graph.quantize import QuantizedLinear, quantize
from beicli.builder.gpu_graph.typed import to_half
from beicli.builder.gpu_layout import layout_inputs, layout_outputs
from beicli.builder.graph import failure_hint
from beicli.builder.onnx_checkpoint import MAX_BYTES_IN_GRAPH
from beicli.builder.openvino import convert
from beicli.builder.quantization.calibration import CalibrationSet
from beicli.builder.record import Computed
from beicli.errors import UsageError
from beicli.tensorrt.profiles import choose_profiles
from beicli.tensorrt.targets import check_precision

TOOLCHAIN = ("torch", "transformers", "onnx", "onnxscript", "openvino", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequest:
    """What GPU an engine is built for, and how.

    method: how products are put into 8 or 4 bit; None leaves them in 16.
    precision: None takes that of the checkpoint, as far as the GPU and the gate allow.
    """

    flavor: Flavor
    sm: int
    method: GpuMethod | None
    precision: ResidualPrecision | None
    hardware_compatibility: HardwareCompatibility
    layout: Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStage:
    """A staged engine, with what the steps before it have found.

    calibration: what activations are observed on, if products are quantised.
    describe: makes the manifest of what was computed, in a precision. make_gate: of a manifest.
    """

    request: GpuRequest
    network: Network
    staging: Path
    calibration: CalibrationSet | None
    describe: Callable[[Computed, Precision], Manifest]
    make_gate: Callable[[Manifest], AccuracyGate]
    step: Step
    warn: Callable[[str], None]

    @property
    def precisions(self) -> tuple[ResidualPrecision, ...]:
        """What to try in turn: what was asked, else what the checkpoint is stored in.

        What was trained in bf16 may have activations beyond the range of f16, and something trained
        in f32 may too, though hardly any does.
        """
        request = self.request
        if request.precision is not None:
            return (request.precision,)
        try:
            check_precision("bf16", request.sm)
        except UsageError:
            # Nor has that generation kernels for float32 here.
            return ("f16",)
        is_bf16 = self.network.spec.dtype == "bfloat16"
        return ("bf16", "f16", "f32") if is_bf16 else ("f16", "bf16", "f32")

    def write_graph(
        self,
        model: onnx_ir.Model,
        precision: ResidualPrecision,
        linears: Mapping[str, QuantizedLinear] | None = None,
    ) -> tuple[TensorInfo, ...]:
        """Write the graph, and what emulates it; return what it gives out.

        model: prepared, in float32; it is used up.
        """
        if precision != "f32":
            to_half(model, precision)
        if linears is not None:
            quantize(model, linears)
        save_graph(model, self.staging / TENSORRT_GRAPH)
        directory = start_emulation(self.staging)
        graph = directory / "model.onnx"
        save_graph(emulate(onnx_ir.load(self.staging / TENSORRT_GRAPH)), graph)
        outputs = convert(graph, directory, hint=failure_hint(self.network.module))
        return layout_outputs(self.request.layout, outputs)

    def emulation(self, manifest: Manifest) -> EngineArtifact:
        """Return the engine of OpenVINO that computes what the graph on a GPU would."""
        return EngineArtifact(
            path=self.staging / EMULATION,
            manifest=replace(
                manifest, backend="openvino", precision="f32", quantization=None, gpu=None
            ),
        )

    def manifest_of(self, precision: Precision, outputs: Sequence[TensorInfo]) -> Manifest:
        """Return the manifest of what was written, but for its files and how it is quantised."""
        request = self.request
        target = GpuTarget(
            sm=request.sm,
            layout=request.layout,
            hardware_compatibility=request.hardware_compatibility,
            profiles=(),
        )
        computed = Computed(
            backend=request.flavor,
            cpu_features=(),
            toolchain=TOOLCHAIN,
            inputs=layout_inputs(request.layout, self.network.spec),
            outputs=tuple(outputs),
            gpu=target,
        )
        manifest = self.describe(computed, precision)
        # The profiles follow from limits that are known only with the manifest.
        profiles = choose_profiles(manifest.limits)
        return replace(manifest, gpu=replace(target, profiles=profiles))

    def tidy_up(self) -> None:
        """Remove what is no part of an engine."""
        shutil.rmtree(self.staging / EMULATION)


def save_graph(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph, large weights beside it, in place of one that may be there."""
    path.parent.mkdir(exist_ok=True)
    data = path.with_name(f"{path.name}.data")
    for file in (path, data):
        file.unlink(missing_ok=True)
    weights = (each.const_value for each in model.graph.initializers.values())
    num_bytes = sum(weight.nbytes for weight in weights if weight is not None)
    if num_bytes > MAX_BYTES_IN_GRAPH:
        onnx_ir.save(model, path, external_data=data.name)
    else:
        # What lies beside the graph that this one was made of.
        onnx_ir.save(onnx_ir.external_data.load_to_model(model), path)
