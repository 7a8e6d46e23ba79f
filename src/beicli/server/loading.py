"""An engine from its directory to its first answer, and its end."""

import asyncio
import logging
from pathlib import Path

from beicli.artifact.directory import EngineArtifact, read_manifest
from beicli.errors import ArtifactError, EngineError, ServerStartError
from beicli.pipeline.apart import run_apart, run_for
from beicli.pipeline.golden import check_golden_answers
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions

logger = logging.getLogger(__name__)

# For a forward pass to end, and after a drain for the last answers to be written.
CLOSE_TIMEOUT_S = 5.0
# For the warm-up and the golden answers of an engine that is to take the place of another: a few
# passes, none of which may take a minute once it serves.
TRIAL_LIMIT_S = 180.0


async def load_pipeline(
    artifact: EngineArtifact,
    options: ServerOptions,
    metrics: ServerMetrics,
    *,
    checks_answers: bool,
) -> InferencePipeline:
    """Load an engine and warm it up; raises ServerStartError if that fails.

    checks_answers: whether it has to give its golden answers as well, and all that in time.
    """
    pipeline = await InferencePipeline.load(
        artifact,
        options=options.engine,
        on_batch=metrics.observe_batch,
        limits=options.pipeline,
    )
    try:
        await run_apart(lambda: _check_unchanged(artifact))
        await (_try_out(pipeline, artifact.path) if checks_answers else warm_up(pipeline))
    except BaseException:
        await close_pipeline(pipeline)
        raise
    return pipeline


def _check_unchanged(artifact: EngineArtifact) -> None:
    """Raise ArtifactError if the directory is not the one that was verified, after it was read."""
    if read_manifest(artifact.path) != artifact.manifest:
        raise ArtifactError(
            f"`{artifact.path}` was replaced after it was verified",
            hint="reload the server with SIGHUP, or start it again",
        )


async def _try_out(pipeline: InferencePipeline, directory: Path) -> None:
    try:
        async with asyncio.timeout(TRIAL_LIMIT_S):
            await warm_up(pipeline)
            await check_golden_answers(pipeline, directory)
    except TimeoutError as error:
        raise ServerStartError(
            f"the engine's first answers took over {TRIAL_LIMIT_S:g} s",
            hint="`bei validate` tells whether it works on this machine",
        ) from error


async def warm_up(pipeline: InferencePipeline) -> None:
    """Compute a first time; raises ServerStartError if that fails."""
    try:
        await pipeline.warm_up()
    except EngineError as error:
        raise ServerStartError(
            f"the engine does not warm up: {error.message}",
            hint=error.hint or "rebuild it with `bei build`",
        ) from error


async def close_pipeline(pipeline: InferencePipeline) -> None:
    """Close the pipeline, unless a forward pass holds it up for too long."""
    if not await run_for(pipeline.close, name="bei-close", timeout_s=CLOSE_TIMEOUT_S):
        logger.error("a forward pass did not end within %g s; leaving it", CLOSE_TIMEOUT_S)
