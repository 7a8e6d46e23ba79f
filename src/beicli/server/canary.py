"""The canary: a few inputs whose answers are known go through the serving pipeline now and then.

An engine that computes nonsense, on a machine whose memory or driver is broken, fails no request.
The inputs and their reference outputs came with the engine (`golden.npz`). They wait in the queue
like everybody's, one at a time, so they hardly compete with requests; the cache is not asked.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beicli.artifact.accuracy import compare_golden
from beicli.artifact.golden import Float32, Sample, read_golden
from beicli.artifact.names import GOLDEN_NAME, REPORT_NAME
from beicli.artifact.report import AccuracyReport, VectorReport, parse_report
from beicli.errors import ArtifactError, BeiError, OverloadedError, UnhealthyError
from beicli.model.spec import Task
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.options import ServerOptions

logger = logging.getLogger(__name__)

# The shortest of those that the engine has: they cost least, and a broken engine fails them all.
NUM_INPUTS = 4
# After one that failed: who is out of service is to come back soon.
RETRY_S = 10.0
# How much further from the reference than at the build numbers may be: other CPUs round otherwise.
MARGIN = 2.0

Golden = Sequence[tuple[Sample, Float32]]


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """How the last canary went.

    value: the lowest cosine, or the furthest that a score is off; NaN if nothing was computed.
    finished_at: seconds since 1970. problem: why it failed; None if it passed.
    """

    value: float
    finished_at: float
    problem: str | None


@dataclass(frozen=True, slots=True)
class CanaryFigures:
    """What the page of metrics says of the canary; allowed: the limit of its value."""

    is_cosine: bool
    allowed: float
    last: CanaryResult | None


class Canary:
    """Asks `pipeline` for what is known, and remembers whether it came out right.

    allowed: the least cosine for embeddings, the furthest a score may be off for others.
    """

    def __init__(
        self, pipeline: InferencePipeline, golden: Golden, *, allowed: float, interval_s: float
    ) -> None:
        # What was computed before says nothing of what the engine computes now.
        self._pipeline = pipeline.without_cache()
        by_length = sorted(golden, key=lambda known: len("".join(known[0])))
        self._golden = by_length[:NUM_INPUTS]
        self._allowed = allowed
        self._interval_s = interval_s
        self._last: CanaryResult | None = None

    @property
    def problem(self) -> str | None:
        """Why the last canary failed; None if it passed, and before the first."""
        return None if self._last is None else self._last.problem

    def figures(self) -> CanaryFigures:
        """Return what is known now."""
        is_cosine = _has_vectors(self._pipeline)
        return CanaryFigures(is_cosine, self._allowed, self._last)

    async def check(self) -> None:
        """Compute the inputs once, and judge them."""
        value, problem, bug = math.nan, None, None
        try:
            report = await self._compare()
        except (UnhealthyError, OverloadedError):
            # The server stops, or its engine is lost, which others tell; or too much waits.
            return
        except BeiError as error:
            problem = f"the golden inputs cannot be computed: {error.message}"
        except Exception as error:  # noqa: BLE001 - a canary that ends with a bug would watch nothing
            # Clients of `/ready` read this, so the rest is for the log.
            problem, bug = "the golden inputs cannot be computed; the server's log says why", error
        else:
            value = report.cosine_min if isinstance(report, VectorReport) else report.max_difference
            problem = self._judge(report)
        self._tell(problem, bug)
        self._last = CanaryResult(value, time.time(), problem)

    async def run(self) -> None:
        """Check at once, and then again and again."""
        while True:
            await self.check()
            failed = self.problem is not None
            await asyncio.sleep(min(RETRY_S, self._interval_s) if failed else self._interval_s)

    async def _compare(self) -> AccuracyReport:
        outputs: list[Float32] = []
        for sample, _ in self._golden:
            outputs += await self._pipeline.outputs([sample])
        manifest = self._pipeline.manifest
        return compare_golden(
            self._golden, outputs, spec=manifest.model, precision=manifest.precision
        )

    def _judge(self, report: AccuracyReport) -> str | None:
        # Nothing of the inputs themselves: they are texts.
        if isinstance(report, VectorReport):
            if report.cosine_min >= self._allowed:
                return None
            return (
                f"a golden input comes out with a cosine of {report.cosine_min:.6f} to the "
                f"reference, at least {self._allowed:.6f} is wanted"
            )
        if report.max_difference <= self._allowed:
            return None
        return (
            f"a score of a golden input is {report.max_difference:.6f} off, at most "
            f"{self._allowed:.6f} is allowed"
        )

    def _tell(self, problem: str | None, bug: Exception | None) -> None:
        """Log what has changed."""
        if problem is not None and self.problem is None:
            logger.error("the canary failed, and `/ready` with it: %s", problem, exc_info=bug)
        elif problem is None and self.problem is not None:
            logger.warning("the canary passes again")


def open_canary(pipeline: InferencePipeline, options: ServerOptions) -> Canary | None:
    """Return the canary of a pipeline; None if it is off, or the engine has no golden inputs."""
    directory = pipeline.directory
    if directory is None or options.canary_interval_s == 0:
        return None
    path = directory / GOLDEN_NAME
    if GOLDEN_NAME not in pipeline.manifest.files and not path.exists():
        # Made without; `bei build` always leaves some.
        return None
    try:
        golden = _read_inputs(path)
        allowed = _allowed(pipeline, directory, options)
    except (ArtifactError, OSError) as error:
        # Of several replicas one is enough to say so.
        if options.engine.replica_number == 0:
            logger.warning("no canary watches the engine's numbers: %s", error)
        return None
    return Canary(pipeline, golden, allowed=allowed, interval_s=options.canary_interval_s)


def _read_inputs(path: Path) -> Golden:
    golden = read_golden(path)
    if not golden:
        raise ArtifactError(f"`{GOLDEN_NAME}` holds no inputs")
    return golden


def _allowed(pipeline: InferencePipeline, directory: Path, options: ServerOptions) -> float:
    """Return what was said, or what follows from the engine's report."""
    said = options.canary_min_cosine if _has_vectors(pipeline) else options.canary_max_score_error
    if said is not None:
        return said
    return default_limit(parse_report((directory / REPORT_NAME).read_text(encoding="utf-8")))


def _has_vectors(pipeline: InferencePipeline) -> bool:
    """Whether what the pipeline computes is compared by cosine."""
    return pipeline.model.task in {Task.EMBEDDING, Task.SPARSE_EMBEDDING}


def default_limit(report: AccuracyReport) -> float:
    """Return the least cosine, or the largest error of a score, that passes unless said otherwise.

    What the build would have let pass does so here, and so does what is MARGIN times as far from
    the reference as the build found it.
    """
    if isinstance(report, VectorReport):
        return min(report.cosine_min_allowed, 1 - MARGIN * (1 - report.cosine_min))
    return max(report.max_difference_allowed, MARGIN * report.max_difference)
