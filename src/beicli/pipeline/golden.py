"""Whether a loaded engine computes what was built, by the answers that its directory keeps."""

from pathlib import Path

from beicli.artifact.accuracy import compare_golden
from beicli.artifact.golden import read_golden
from beicli.artifact.names import GOLDEN_NAME
from beicli.errors import AccuracyError
from beicli.pipeline.pipeline import InferencePipeline


async def check_golden_answers(pipeline: InferencePipeline, directory: Path) -> None:
    """Raise AccuracyError unless the golden inputs come out as stored; none there is fine.

    Raises ArtifactError if `golden.npz` cannot be read, and EngineError if a pass fails.
    """
    if GOLDEN_NAME not in pipeline.manifest.files:
        return
    golden = read_golden(directory / GOLDEN_NAME)
    outputs = await pipeline.outputs([sample for sample, _ in golden])
    manifest = pipeline.manifest
    report = compare_golden(golden, outputs, spec=manifest.model, precision=manifest.precision)
    if not report.passed:
        raise AccuracyError(
            f"the golden inputs come out differently: {report.failure}",
            hint="rebuild it on this machine with `bei build`",
        )
