"""A loaded engine with its tokenizer and its scheduler: from token ids to the engine's outputs."""

import asyncio
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest
from beicli.engine.base import Engine
from beicli.engine.batch import Float32, TokenSequence
from beicli.engine.checked import CheckedEngine
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.errors import EmptyInputError, EngineError, EngineLostError
from beicli.machine import available_cpus
from beicli.model.spec import ModelSpec, Task
from beicli.pipeline.apart import run_apart
from beicli.pipeline.result_cache import CacheStatistics, ResultCache
from beicli.pipeline.results import Timing, Usage
from beicli.pipeline.tokenizer import Encoding, Tokenizer
from beicli.pipeline.tokenizer_pool import TokenizerPool
from beicli.scheduler.admission import AdmissionLimits, QueueState
from beicli.scheduler.queue import BatchLimits
from beicli.scheduler.requests import work_key
from beicli.scheduler.scheduler import BatchScheduler, FinishedBatch, ForwardResult
from beicli.scheduler.terms import Terms, current_terms

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """What a pipeline may hold.

    admission: how much may wait for the engine.
    result_cache_bytes: for rows that were computed before; 0 keeps none.
    """

    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    result_cache_bytes: int = 0


class LoadedEngine:
    """One engine, its tokenizer and its scheduler; lives on one event loop.

    directory: of the engine, where it was opened from one.
    """

    directory: Path | None = None

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        engine: Engine,
        *,
        on_batch: Callable[[FinishedBatch], None] | None = None,
        limits: PipelineLimits = PipelineLimits(),
    ) -> None:
        """on_batch: hears of every forward pass."""
        self._manifest = manifest
        self._tokenizer = tokenizer
        # Before there are threads, which nobody would end if it failed.
        self._canary = tokenizer.encode(["ready"])[0].sequence
        self._threads = TokenizerPool(num_threads=available_cpus())
        batch_limits = BatchLimits(
            max_num_tokens=manifest.limits.max_num_tokens,
            max_batch_size=manifest.limits.max_batch_size,
            preferred_num_tokens=engine.preferred_num_tokens,
        )
        self._scheduler = BatchScheduler(
            CheckedEngine(engine, manifest.model),
            batch_limits,
            on_batch=on_batch,
            admission=limits.admission,
        )
        self._cache = ResultCache(limits.result_cache_bytes) if limits.result_cache_bytes else None
        self._has_pooled_output = manifest.model.task is not Task.TOKEN_CLASSIFICATION

    @classmethod
    def open(
        cls,
        artifact: EngineArtifact,
        *,
        options: EngineOptions | None = None,
        on_batch: Callable[[FinishedBatch], None] | None = None,
        limits: PipelineLimits = PipelineLimits(),
    ) -> Self:
        """Load the engine and the tokenizer of an opened engine directory."""
        engine, tokenizer = _load(artifact, options)
        return cls._of(artifact, tokenizer, engine, on_batch=on_batch, limits=limits)

    @classmethod
    async def load(
        cls,
        artifact: EngineArtifact,
        *,
        options: EngineOptions | None = None,
        on_batch: Callable[[FinishedBatch], None] | None = None,
        limits: PipelineLimits = PipelineLimits(),
    ) -> Self:
        """As `open`, while the event loop goes on."""
        # The tokenizer in a second thread beside the engine was tried: it saves nothing.
        engine, tokenizer = await run_apart(lambda: _load(artifact, options))
        return cls._of(artifact, tokenizer, engine, on_batch=on_batch, limits=limits)

    @classmethod
    def _of(
        cls,
        artifact: EngineArtifact,
        tokenizer: Tokenizer,
        engine: Engine,
        *,
        on_batch: Callable[[FinishedBatch], None] | None,
        limits: PipelineLimits,
    ) -> Self:
        try:
            loaded = cls(artifact.manifest, tokenizer, engine, on_batch=on_batch, limits=limits)
        except BaseException:
            engine.close()
            raise
        loaded.directory = artifact.path
        return loaded

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def model(self) -> ModelSpec:
        return self._manifest.model

    @property
    def num_waiting(self) -> int:
        """Sequences waiting for a slot."""
        return self._scheduler.num_waiting

    @property
    def num_slots(self) -> int:
        """Forward passes that may run at the same time."""
        return self._scheduler.num_slots

    def estimated_wait_s(self) -> float | None:
        """How long what waits will take; None while that is not known yet."""
        return self._scheduler.estimated_wait_s()

    def queue_state(self) -> QueueState:
        """What waits."""
        return self._scheduler.queue_state()

    def check_admission(self, terms: Terms) -> None:
        """Raise OverloadedError where the smallest request on these terms would be refused.

        With a cache it may have to wait for nothing, so it is let in and looked at then.
        """
        if self._cache is not None:
            return
        self._scheduler.check_admission(terms)

    def busy_s(self) -> float:
        """Return computing time of all slots so far, running batches included."""
        return self._scheduler.busy_s()

    def cache_statistics(self) -> CacheStatistics | None:
        """What became of the cache of results; None without one."""
        return None if self._cache is None else self._cache.statistics()

    def without_cache(self) -> Self:
        """Return what asks the same engine, and computes everything anew; not to be closed."""
        same = copy.copy(self)
        same._cache = None  # noqa: SLF001 - its own
        return same

    async def warm_up(self) -> None:
        """Run one short and one full-length sequence; raises EngineError if either fails."""
        longest = min(self._manifest.limits.max_input_length, self._scheduler.limits.max_num_tokens)
        await self._submit([self._canary])
        await self._submit([TokenSequence(np.resize(self._canary.input_ids, longest))])

    @property
    def lost(self) -> EngineLostError | None:
        """Why the engine can compute nothing more in this process; None while it can."""
        return self._scheduler.lost

    def stalled_for_s(self) -> float:
        """The scheduler's heartbeat: how long the slowest running forward pass has been at it."""
        return self._scheduler.stalled_for_s()

    async def check_ready(self, *, max_age_s: float, timeout_s: float) -> None:
        """Return if a forward pass succeeded within `max_age_s`, or one does so now.

        Raises EngineError or UnhealthyError if not.
        """
        if self._scheduler.last_forward_age_s() <= max_age_s:
            return
        try:
            await asyncio.wait_for(self._submit([self._canary]), timeout_s)
        except TimeoutError as error:
            raise EngineError(f"no forward pass finished within {timeout_s:g} s") from error

    def close(self) -> None:
        """Finish what is queued, then free threads and engine."""
        self._scheduler.close()
        self._threads.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _tokenize(self, work: Callable[[], T], num_characters: int) -> tuple[T, float]:
        """Return what `work` does, and how long it took."""
        started_at = time.monotonic()
        done = await self._threads.run(work, num_characters=num_characters)
        return done, time.monotonic() - started_at

    async def _run(
        self, encodings: Sequence[Encoding], tokenization_s: float, *, needs_tokens: bool = False
    ) -> tuple[list[Float32], Usage]:
        """Return the output of each sequence, and what the request took.

        Raises EmptyInputError without sequences.
        """
        if not encodings:
            raise EmptyInputError("`inputs` cannot be empty", hint="send at least one input")
        sequences = [encoding.sequence for encoding in encodings]
        result = await self._compute(sequences, needs_tokens=needs_tokens)
        usage = Usage(
            num_tokens=sum(map(len, sequences)),
            input_lengths=tuple(encoding.original_length for encoding in encodings),
            num_truncated_inputs=sum(encoding.num_dropped_tokens > 0 for encoding in encodings),
            timing=Timing(tokenization_s, result.queue_s, result.inference_s),
        )
        return result.outputs, usage

    async def _compute(
        self, sequences: Sequence[TokenSequence], *, needs_tokens: bool
    ) -> ForwardResult:
        """Take from the cache what is there, and compute the rest."""
        cache = self._cache
        if cache is None:
            return await self._scheduler.submit(
                sequences, needs_tokens=needs_tokens, terms=current_terms()
            )
        keys = [work_key(sequence, needs_tokens=needs_tokens) for sequence in sequences]
        found = [cache.get(key) for key in keys]
        missing = [index for index, row in enumerate(found) if row is None]
        if not missing:
            return ForwardResult([row for row in found if row is not None], 0.0, 0.0)
        result = await self._scheduler.submit(
            [sequences[index] for index in missing],
            needs_tokens=needs_tokens,
            terms=current_terms(),
        )
        for index, row in zip(missing, result.outputs, strict=True):
            cache.put(keys[index], row)
            found[index] = row
        # Means over all inputs, and what is in the cache takes no time.
        share = len(missing) / len(keys)
        return ForwardResult(
            [row for row in found if row is not None],
            result.queue_s * share,
            result.inference_s * share,
        )

    async def _submit(self, sequences: Sequence[TokenSequence]) -> None:
        await self._scheduler.submit(sequences, needs_tokens=not self._has_pooled_output)


def _load(artifact: EngineArtifact, options: EngineOptions | None) -> tuple[Engine, Tokenizer]:
    # The engine first: whether anything here can run it is what a user has to know first.
    engine = load_engine(artifact, options or EngineOptions())
    try:
        return engine, open_tokenizer(artifact.path, artifact.manifest)
    except BaseException:
        engine.close()
        raise


def open_tokenizer(directory: Path, manifest: Manifest) -> Tokenizer:
    """Load the tokenizer of an engine directory, with the engine's length limit."""
    return Tokenizer.open(
        directory / "tokenizer",
        max_input_length=manifest.limits.max_input_length,
        lowercase=manifest.model.do_lower_case,
        takes_token_type_ids=manifest.model.takes_token_type_ids,
    )
