"""Another engine in the place of the one that serves, without dropping a request.

The new one is opened, verified, loaded, warmed up and asked for its golden answers while the old
one serves. Only then it is put in front; whoever is inside keeps the old one. Until that is closed
both are in memory.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest, manifest_digest
from beicli.errors import BeiError, UnhealthyError
from beicli.model.routes import words_for
from beicli.pipeline.apart import run_apart
from beicli.server.errors import ReloadError, ReloadUnderWayError
from beicli.server.front import Front, model_names
from beicli.server.lifecycle import Lifecycle, unless_stopped

logger = logging.getLogger(__name__)

UNDER_WAY = "a reload is under way"
# Enough of a digest to tell engines apart.
_SHOWN = 12


class Reloader:
    """Reloads the engines of a single process from the paths that it was started with."""

    def __init__(self, front: Front, lifecycle: Lifecycle, paths: Sequence[Path]) -> None:
        self._front = front
        self._lifecycle = lifecycle
        self._paths = paths
        self._turn = asyncio.Lock()

    async def obey(self) -> None:
        """Reload whenever a signal asks for it; what goes wrong is logged."""
        asked = self._lifecycle.reload_requested
        await self._front.is_serving.wait()
        while True:
            await asked.wait()
            async with self._turn:
                asked.clear()
                with suppress(BeiError):
                    await self._reload()

    async def reload(self) -> Sequence[Manifest]:
        """Reload now and return what serves then.

        Raises ReloadUnderWayError, ReloadError when the old engine goes on serving, and
        UnhealthyError if the server is stopped first.
        """
        if self._turn.locked():
            raise ReloadUnderWayError(UNDER_WAY, hint="wait for its end")
        async with self._turn:
            return await self._reload()

    async def _reload(self) -> Sequence[Manifest]:
        found = await unless_stopped(self._attempt(), self._lifecycle)
        if found is None:
            raise UnhealthyError("the server is shutting down")
        return found

    async def _attempt(self) -> Sequence[Manifest]:
        try:
            artifacts = await run_apart(lambda: open_artifacts(self._paths))
            manifests = await renew(self._front, artifacts)
        except Exception as error:
            self._front.metrics.reloaded("failure")
            raise explained(error) from error
        # A stop in between is neither.
        self._front.metrics.reloaded("success")
        return manifests


def open_artifacts(paths: Sequence[Path]) -> list[EngineArtifact]:
    """Open and verify engine directories, links followed now so that all is read from one place."""
    return [EngineArtifact.open(path.resolve()) for path in paths]


async def renew(front: Front, artifacts: Sequence[EngineArtifact]) -> Sequence[Manifest]:
    """Let the engines of `artifacts` serve instead of those that do; returns their manifests."""
    before = [pipeline.manifest for pipeline in front.pipelines]
    for old, new in zip(before, artifacts, strict=True):
        _check_task(old, new.manifest)
    model_names(front.options, [artifact.manifest for artifact in artifacts])
    await front.wait_retired()
    front.put(await front.load(artifacts, checks_answers=True))
    for old, new in zip(before, artifacts, strict=True):
        _log(old, new.manifest)
    return [artifact.manifest for artifact in artifacts]


def explained(error: Exception) -> ReloadError:
    """Log why a reload failed, and return what whoever asked for it is told."""
    reason = error.message if isinstance(error, BeiError) else type(error).__name__
    hint = error.hint if isinstance(error, BeiError) else "the server's log has the details"
    message = f"the reload failed, and the old engine goes on serving: {reason}"
    logger.error("%s", message, exc_info=None if isinstance(error, BeiError) else error)
    return ReloadError(message, hint=hint)


def _check_task(old: Manifest, new: Manifest) -> None:
    if new.model.task is not old.model.task:
        raise ReloadError(
            f"`{old.name}` is {words_for(old.model.task)}, and what is there now is "
            f"{words_for(new.model.task)}",
            hint="its clients ask other routes: start the server anew to serve it",
        )


def _log(old: Manifest, new: Manifest) -> None:
    digests = [manifest_digest(manifest)[:_SHOWN] for manifest in (old, new)]
    logger.info("reloaded `%s` (%s), before `%s` (%s)", new.name, digests[1], old.name, digests[0])
    dimensions = [manifest.model.embedding_dimension for manifest in (old, new)]
    if dimensions[0] != dimensions[1]:
        logger.warning("vectors have %d dimensions now, and had %d before", *reversed(dimensions))
