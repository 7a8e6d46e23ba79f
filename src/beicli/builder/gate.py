"""The gate of a build: the staged engine, as it will serve, against the float32 reference."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from beicli.artifact.accuracy import compare
from beicli.artifact.directory import EngineArtifact
from beicli.artifact.golden import Float32, Sample, write_golden
from beicli.artifact.manifest import Backend, Manifest
from beicli.artifact.names import GOLDEN_NAME, REPORT_NAME
from beicli.artifact.report import AccuracyReport, dump_report
from beicli.builder.graph import ONNX_HINT
from beicli.builder.reference import reference_outputs
from beicli.builder.samples import golden_samples, reference_samples
from beicli.errors import AccuracyError
from beicli.modeling.onnx_network import onnx_network
from beicli.modeling.tasks import TaskModule

_ONNX_REFERENCE = "ONNX Runtime, float32, one sample at a time"

Compute = Callable[[EngineArtifact, Sequence[Sample]], list[Float32]]


class AccuracyGate:
    """Compares one staged engine, in one precision after another if need be.

    compute: computes the outputs of samples with a finished directory, on the path that serves.
    """

    def __init__(
        self,
        staging: Path,
        manifest: Manifest,
        *,
        module: TaskModule,
        checkpoint: Path,
        compute: Compute,
    ) -> None:
        self._staging = staging
        self._spec = manifest.model
        self._backend = manifest.backend
        self._is_onnx = onnx_network(module) is not None
        self._compute = compute
        self._samples = reference_samples(manifest.model)
        self._reference = reference_outputs(
            module,
            checkpoint,
            manifest.model,
            self._samples,
            max_input_length=manifest.limits.max_input_length,
        )

    def compare(self) -> AccuracyReport:
        """Compute the samples with the engine as it is sealed now, and compare."""
        artifact = EngineArtifact.open(self._staging)
        candidate = self._compute(artifact, self._samples)
        report = compare(
            self._reference,
            candidate,
            self._samples,
            spec=self._spec,
            precision=artifact.manifest.precision,
        )
        return replace(report, reference=_ONNX_REFERENCE) if self._is_onnx else report

    def pass_with(self, report: AccuracyReport) -> None:
        """Write `report.json` and `golden.npz`; raises AccuracyError if the report fails."""
        require_accuracy(report, backend=self._backend, is_onnx=self._is_onnx)
        (self._staging / REPORT_NAME).write_text(dump_report(report), encoding="utf-8")
        golden = golden_samples(self._spec)
        outputs = [self._reference[self._samples.index(sample)] for sample in golden]
        write_golden(self._staging / GOLDEN_NAME, golden, outputs)


def require_accuracy(report: AccuracyReport, *, backend: Backend, is_onnx: bool = False) -> None:
    """Raise AccuracyError, with the worst sample, if the report does not pass.

    is_onnx: whether the checkpoint is an ONNX model, which torch does not compute.
    """
    if report.passed:
        return
    raise AccuracyError(
        f"the {report.precision} engine disagrees with the float32 reference: {report.failure}",
        hint=_hint(report, backend, is_onnx=is_onnx),
    )


def _hint(report: AccuracyReport, backend: Backend, *, is_onnx: bool) -> str:
    if report.precision != "f32":
        return "build with `--precision f32`"
    if is_onnx:
        return ONNX_HINT
    if backend == "torch":
        return "padding or tokens are wrong for this architecture; report it with its name"
    return (
        "the export is wrong for this architecture: build it with `--backend torch`, and report "
        "it with the checkpoint's name"
    )
