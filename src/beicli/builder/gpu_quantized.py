"""An engine for a GPU in 8 or 4 bit: by plans that the gate judges, or as the checkpoint has it."""

from dataclasses import replace
from pathlib import Path

from beicli.artifact.manifest import (
    Manifest,
    Quantization,
    ResidualPrecision,
    TensorInfo,
)
from beicli.artifact.report import AccuracyReport
from beicli.builder.gate import AccuracyGate
from beicli.builder.gpu_graph.linears import find_linears
from beicli.builder.gpu_graph.modelopt import checkpoint_linears, quantized_fraction
from beicli.builder.gpu_graph.number_formats import BLOCK_SIZE
from beicli.builder.gpu_graph.plan import METHOD_PRECISIONS, CalibratedGraph, calibrate
from beicli.builder.gpu_graph.prepare import load_prepared
from beicli.builder.gpu_layout import layout_samples
from beicli.builder.gpu_stage import GpuStage
from beicli.builder.quantization.calibration import encode_samples
from beicli.builder.quantization.graph import Level
from beicli.builder.quantization.plan import MIN_QUANTIZED_FRACTION, Plan, search
from beicli.builder.quantized import describe_plan, require_plan
from beicli.errors import BuildError
from beicli.model.modelopt import ALGORITHM_PRECISIONS, read_modelopt_config
from beicli.modeling.modelopt import read_quantization


def write_quantized(stage: GpuStage, exported: Path) -> tuple[Manifest, AccuracyReport]:
    """Write the graph with as many products in 8 or 4 bit as the gate lets pass."""
    method, calibration = stage.request.method, stage.calibration
    assert method is not None, "products are to be quantised"
    assert calibration is not None, "what is quantised is calibrated"
    residual = stage.precisions[0]
    outputs = stage.write_graph(load_prepared(exported), residual)
    with stage.step("Calibrated") as say:
        samples = encode_samples(
            calibration,
            stage.network.checkpoint,
            stage.network.spec,
            max_input_length=stage.manifest_of(residual, outputs).limits.max_input_length,
        )
        samples = layout_samples(stage.request.layout, samples)
        graph = calibrate(exported, samples, method)
        candidates = graph.plans()
        say(f"{len(graph.errors):,} products, on {calibration.description}")
    trial = _Trial(stage, exported, graph, residual, outputs)
    with stage.step("Quantized") as say:
        for text in trial.leave_out():
            stage.warn(f"{text!r} is not judged by: {residual} alone misses it already")
        found = search(candidates, trial.evaluate)
        manifest = trial.write(found.plan)
        say(describe_plan(found, manifest))
    if found.report.passed and found.plan.quantized_fraction < MIN_QUANTIZED_FRACTION:
        stage.warn(
            f"only {found.plan.quantized_fraction:.0%} of the multiplications are in "
            f"{manifest.precision}, which is what passes; in 16 bit it may be as fast"
        )
    with stage.step("Checked") as say:
        require_plan(found, manifest)
        trial.gate(manifest).pass_with(found.report)
        say(found.report.summary)
    return manifest, found.report


def write_as_quantized(stage: GpuStage, exported: Path) -> tuple[Manifest, AccuracyReport]:
    """Write the graph with the products in 8 or 4 bit that the checkpoint has in them."""
    checkpoint = stage.network.checkpoint
    stored, config = read_quantization(checkpoint), read_modelopt_config(checkpoint)
    assert stored is not None, "the checkpoint was quantised"
    assert config is not None, "the checkpoint was quantised"
    if config.note is not None:
        stage.warn(config.note)
    residual = stage.precisions[0]
    precision = ALGORITHM_PRECISIONS[stored.algorithm]
    with stage.step("Quantized") as say:
        model = load_prepared(exported)
        products = find_linears(model)
        linears = checkpoint_linears(model, products, stored)
        kept = tuple(each.name for each in products if each.name not in linears)
        fraction = quantized_fraction(linears, products)
        if not linears:
            raise BuildError(
                "none of the products that the checkpoint has quantised is one of the network's",
                hint="build from the 16 or 32 bit checkpoint it was made from",
            )
        outputs = stage.write_graph(model, residual, linears)
        say(f"TensorRT, {precision}, {len(linears):,} products as the checkpoint has them")
    quantization = Quantization(
        method="modelopt",
        residual_precision=residual,
        static=tuple(linears) if precision == "fp8" else (),
        dynamic=tuple(linears) if precision == "fp4" else (),
        kept=kept,
        quantized_fraction=round(fraction, 4),
        dynamic_group_size=BLOCK_SIZE,
        calibration="the checkpoint's own",
    )
    manifest = replace(stage.manifest_of(precision, outputs), quantization=quantization)
    with stage.step("Checked") as say:
        gate = stage.make_gate(manifest)
        report = gate.compare_emulation(stage.emulation(manifest), precision)
        gate.pass_with(report)
        say(report.summary)
    return manifest, report


class _Trial:
    """Writes plans of what is quantised into the staged engine, and has them compared."""

    def __init__(
        self,
        stage: GpuStage,
        exported: Path,
        graph: CalibratedGraph,
        residual: ResidualPrecision,
        outputs: tuple[TensorInfo, ...],
    ) -> None:
        self._stage = stage
        self._outputs = outputs
        self._exported = exported
        self._graph = graph
        self._residual = residual
        self._gate: AccuracyGate | None = None

    def leave_out(self) -> tuple[str, ...]:
        """Return what the engine in 16 bit, which is staged now, misses already."""
        stage = self._stage
        manifest = stage.manifest_of(self._residual, self._outputs)
        precision = METHOD_PRECISIONS[self._graph.method]
        return self.gate(manifest).leave_out(stage.emulation(manifest), precision)

    def evaluate(self, plan: Plan) -> AccuracyReport:
        manifest = self.write(plan)
        emulation = self._stage.emulation(manifest)
        return self.gate(manifest).compare_emulation(emulation, manifest.precision)

    def gate(self, manifest: Manifest) -> AccuracyGate:
        """Return the gate, which computes the reference once for all plans."""
        if self._gate is None:
            self._gate = self._stage.make_gate(manifest)
        return self._gate

    def write(self, plan: Plan) -> Manifest:
        """Write the engine of a plan and return its manifest."""
        stage, method = self._stage, self._graph.method
        linears = self._graph.quantized(plan)
        outputs = stage.write_graph(load_prepared(self._exported), self._residual, linears)
        manifest = stage.manifest_of(METHOD_PRECISIONS[method], outputs)
        assert stage.calibration is not None, "what is quantised is calibrated"
        quantization = Quantization(
            method=method,
            residual_precision=self._residual,
            static=plan.names(Level.STATIC),
            dynamic=plan.names(Level.DYNAMIC),
            kept=plan.names(Level.KEPT),
            quantized_fraction=round(plan.quantized_fraction, 4),
            dynamic_group_size=BLOCK_SIZE,
            calibration=stage.calibration.description,
        )
        return replace(manifest, quantization=quantization)
