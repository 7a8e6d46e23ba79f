"""An engine in 8 bit: plan after plan is written and compared, until the gate passes one."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from beicli.artifact.directory import seal_artifact
from beicli.artifact.manifest import OPENVINO_MODEL, Manifest, Quantization
from beicli.artifact.report import AccuracyReport
from beicli.builder.backend import Step
from beicli.builder.gate import AccuracyGate
from beicli.builder.quantization.calibration import CalibrationSet, encode_samples
from beicli.builder.quantization.graph import Level
from beicli.builder.quantization.plan import Found, Method, Plan, search
from beicli.builder.quantization.quantize import CalibratedNetwork, calibrate
from beicli.builder.quantization.scales import DYNAMIC_GROUP_SIZE
from beicli.errors import AccuracyError

# Where the float32 graph waits while plans are made of it; not part of a finished engine.
_FLOAT_GRAPH = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationRequest:
    """What the configuration asks for: how to quantise, and what to calibrate on."""

    method: Method
    calibration: CalibrationSet
    checkpoint: Path


def quantize_engine(
    staging: Path,
    manifest: Manifest,
    request: QuantizationRequest,
    *,
    make_gate: Callable[[], AccuracyGate],
    step: Step,
) -> tuple[Manifest, AccuracyReport]:
    """Put the staged float32 engine into 8 bit and return its manifest, sealed, with its report.

    Raises AccuracyError, with the best that was reached, if no plan passes the gate.
    """
    graph = staging / _FLOAT_GRAPH / "model.xml"
    (staging / OPENVINO_MODEL).parent.rename(graph.parent)
    (staging / OPENVINO_MODEL).parent.mkdir()
    with step("Calibrated") as say:
        samples = encode_samples(
            request.calibration,
            request.checkpoint,
            manifest.model,
            max_input_length=manifest.limits.max_input_length,
        )
        network = calibrate(graph, samples, request.method)
        say(f"{len(network.errors):,} products, on {request.calibration.description}")
    candidates = network.plans()
    with step("Quantized") as say:
        gate = make_gate()
        trial = _Trial(staging, manifest, request, network, gate)
        found = search(candidates, trial.evaluate)
        trial.write(found.plan)
        shutil.rmtree(graph.parent)
        sealed = trial.seal(found.plan)
        say(describe_plan(found, sealed))
    with step("Checked") as say:
        require_plan(found, sealed)
        gate.pass_with(found.report)
        say(found.report.summary)
    return sealed, found.report


@dataclass(frozen=True, slots=True)
class _Trial:
    """Writes plans into the staged engine and has them compared."""

    staging: Path
    manifest: Manifest
    request: QuantizationRequest
    network: CalibratedNetwork
    gate: AccuracyGate

    def evaluate(self, plan: Plan) -> AccuracyReport:
        self.write(plan)
        self.seal(plan)
        return self.gate.compare()

    def write(self, plan: Plan) -> None:
        path = self.staging / OPENVINO_MODEL
        # Removed, not written over: something may still have the last plan's weights mapped.
        for file in (path, path.with_suffix(".bin")):
            file.unlink(missing_ok=True)
        self.network.write(plan, path)

    def seal(self, plan: Plan) -> Manifest:
        """Seal the engine as one of `plan`; its graph must be there."""
        quantization = Quantization(
            method=self.request.method,
            residual_precision=self.manifest.residual_precision,
            static=plan.names(Level.STATIC),
            dynamic=plan.names(Level.DYNAMIC),
            kept=plan.names(Level.KEPT),
            quantized_fraction=round(plan.quantized_fraction, 4),
            dynamic_group_size=DYNAMIC_GROUP_SIZE,
            calibration=self.request.calibration.description,
        )
        return seal_artifact(
            self.staging, replace(self.manifest, precision="int8", quantization=quantization)
        )


def require_plan(found: Found, manifest: Manifest) -> None:
    """Raise AccuracyError, with how far it came, if the plan that was found does not pass."""
    if found.report.passed:
        return
    raise AccuracyError(
        f"no plan in {manifest.precision} passes; the closest has "
        f"{found.plan.quantized_fraction:.0%} of the multiplications in it, the rest in "
        f"{manifest.residual_precision}: "
        f"{found.report.failure}",
        hint="build with `quantization_type: no_quant`, or calibrate on texts like yours: name a "
        "file in `quantization_config.calib_dataset`",
    )


def describe_plan(found: Found, manifest: Manifest) -> str:
    """Return what a plan does with how many products."""
    counts = {level: len(found.plan.names(level)) for level in Level}
    words = {
        Level.STATIC: "with fixed scales",
        Level.DYNAMIC: "scaled by block" if manifest.precision == "fp4" else "scaled by token",
        Level.KEPT: f"left in {manifest.residual_precision}",
    }
    parts = [f"{count:,} {words[level]}" for level, count in counts.items() if count]
    plans = "1 plan" if found.num_tried == 1 else f"{found.num_tried} plans"
    compiler = "OpenVINO" if manifest.backend == "openvino" else "TensorRT"
    return f"{compiler}, {manifest.precision}, products: {', '.join(parts)}; {plans} tried"
