"""The gate of a build: the staged engine, as it will serve, against the float32 reference."""

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from beicli.artifact.accuracy import compare
from beicli.artifact.directory import EngineArtifact
from beicli.artifact.golden import Float32, Sample, excerpt, write_golden
from beicli.artifact.manifest import QUANTIZED_PRECISIONS, Backend, Manifest, Precision
from beicli.artifact.names import GOLDEN_NAME, REPORT_NAME
from beicli.artifact.report import COMPUTED_BY_EMULATION, AccuracyReport, dump_report
from beicli.builder.graph import ONNX_HINT
from beicli.builder.reference import reference_outputs
from beicli.builder.samples import golden_samples, reference_samples
from beicli.errors import AccuracyError
from beicli.modeling.onnx_network import onnx_network
from beicli.modeling.tasks import TaskModule

_ONNX_REFERENCE = "ONNX Runtime, float32, one sample at a time"

# Beside the engine while it is built.
EMULATION = "emulation"
# The share of the samples that may be left out.
_MAX_LEFT_OUT = 0.05

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
        return self._compare(artifact, artifact.manifest.precision)

    def leave_out(self, emulation: EngineArtifact, precision: Precision) -> tuple[str, ...]:
        """Judge no more by samples that not even an engine in 16 bit computes close enough.

        emulation: of that engine. precision: the lower one that is to be judged.
        A few texts, such as one word hundreds of times, have vectors that the last bit of a number
        decides in some models; they say nothing of a lower precision. Returns what they are.
        Raises AccuracyError if they are more than a few.
        """
        candidate = self._compute(emulation, self._samples)
        judged = [
            compare([wanted], [found], [sample], spec=self._spec, precision=precision).passed
            for wanted, found, sample in zip(self._reference, candidate, self._samples, strict=True)
        ]
        left_out = [
            excerpt(each)
            for each, is_judged in zip(self._samples, judged, strict=True)
            if not is_judged
        ]
        if len(left_out) > _MAX_LEFT_OUT * len(self._samples):
            raise AccuracyError(
                f"16 bit alone misses {len(left_out)} of {len(self._samples)} samples, such as "
                f"{left_out[0]!r}",
                hint="build with `quantization_type: no_quant`, or in another `--precision`",
            )
        self._samples = tuple(itertools.compress(self._samples, judged))
        self._reference = list(itertools.compress(self._reference, judged))
        return tuple(left_out)

    def compare_emulation(self, emulation: EngineArtifact, precision: Precision) -> AccuracyReport:
        """Do the same with what emulates, on a CPU, an engine in `precision`."""
        return replace(self._compare(emulation, precision), computed_by=COMPUTED_BY_EMULATION)

    def pass_with(self, report: AccuracyReport) -> None:
        """Write `report.json` and `golden.npz`; raises AccuracyError if the report fails."""
        require_accuracy(report, backend=self._backend, is_onnx=self._is_onnx)
        (self._staging / REPORT_NAME).write_text(dump_report(report), encoding="utf-8")
        golden = [each for each in golden_samples(self._spec) if each in self._samples]
        outputs = [self._reference[self._samples.index(sample)] for sample in golden]
        write_golden(self._staging / GOLDEN_NAME, golden, outputs)

    def _compare(self, artifact: EngineArtifact, precision: Precision) -> AccuracyReport:
        candidate = self._compute(artifact, self._samples)
        report = compare(
            self._reference, candidate, self._samples, spec=self._spec, precision=precision
        )
        return replace(report, reference=_ONNX_REFERENCE) if self._is_onnx else report


def start_emulation(staging: Path) -> Path:
    """Return a directory for what emulates the staged engine, anew and with its tokenizer.

    It is no part of the engine: whoever starts it removes it.
    """
    directory = staging / EMULATION
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "tokenizer").symlink_to(Path("..") / "tokenizer")
    return directory


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
    if report.precision == "f16":
        return "build with `--precision bf16`"
    if report.precision in QUANTIZED_PRECISIONS:
        return "build with `quantization_type: no_quant`"
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
