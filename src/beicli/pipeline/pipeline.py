"""Text in, numbers out: tokenise, schedule, post-process; the server's path and the gate's."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import Manifest
from beicli.engine.base import Engine
from beicli.engine.batch import Float32, Int32
from beicli.engine.cpu import available_cpus
from beicli.engine.load import EngineOptions, load_engine
from beicli.errors import EngineError, RequestError
from beicli.pipeline.postprocess import l2_normalize, truncate_dimensions
from beicli.pipeline.tokenizer import TextOrIds, Tokenizer, TokenizerPool
from beicli.scheduler.queue import BatchLimits
from beicli.scheduler.scheduler import BatchScheduler, FinishedBatch


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went, in seconds; queue and inference are means over its inputs."""

    tokenization_s: float
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingResult:
    """What `embed` returns.

    embeddings: [num_inputs, dimensions], float32, unit length, in the order of the inputs.
    num_tokens: tokens computed, special tokens included, after truncation.
    num_truncated_inputs: how many inputs lost tokens to the length limit.
    """

    embeddings: Float32
    num_tokens: int
    num_truncated_inputs: int
    timing: Timing


class InferencePipeline:
    """One loaded engine with its tokenizer and scheduler; lives on one event loop."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        engine: Engine,
        *,
        on_batch: Callable[[FinishedBatch], None] | None = None,
    ) -> None:
        self._manifest = manifest
        self._tokenizer = TokenizerPool(tokenizer, num_threads=available_cpus())
        limits = BatchLimits(
            max_num_tokens=manifest.limits.max_num_tokens,
            max_batch_size=manifest.limits.max_batch_size,
            preferred_num_tokens=engine.preferred_num_tokens,
        )
        self._scheduler = BatchScheduler(engine, limits, on_batch=on_batch)
        self._canary: Int32 = tokenizer.encode(["ready"])[0].input_ids

    @classmethod
    def open(
        cls,
        artifact: EngineArtifact,
        *,
        options: EngineOptions | None = None,
        on_batch: Callable[[FinishedBatch], None] | None = None,
    ) -> Self:
        """Load the engine and the tokenizer of an opened engine directory."""
        engine = load_engine(artifact, options or EngineOptions())
        tokenizer = open_tokenizer(artifact.path, artifact.manifest)
        return cls(artifact.manifest, tokenizer, engine, on_batch=on_batch)

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def num_waiting(self) -> int:
        """Sequences waiting for a slot."""
        return self._scheduler.num_waiting

    async def embed(
        self, inputs: Sequence[TextOrIds], *, dimensions: int | None = None
    ) -> EmbeddingResult:
        """Embed texts or token ids; `dimensions` keeps the first ones and renormalises.

        Raises RequestError for a bad input, EngineError when the engine fails.
        """
        self._check_dimensions(dimensions)
        started_at = time.monotonic()
        encodings = await self._tokenizer.encode(inputs, prefix=self._default_prompt())
        tokenization_s = time.monotonic() - started_at
        result = await self._scheduler.submit([encoding.input_ids for encoding in encodings])
        rows = truncate_dimensions(np.stack(result.outputs), dimensions)
        return EmbeddingResult(
            embeddings=l2_normalize(rows),
            num_tokens=sum(len(encoding.input_ids) for encoding in encodings),
            num_truncated_inputs=sum(encoding.num_dropped_tokens > 0 for encoding in encodings),
            timing=Timing(tokenization_s, result.queue_s, result.inference_s),
        )

    async def warm_up(self) -> None:
        """Run one short and one full-length sequence; raises EngineError if either fails."""
        longest = min(self._manifest.limits.max_input_length, self._scheduler.limits.max_num_tokens)
        await self._scheduler.submit([self._canary])
        await self._scheduler.submit([np.resize(self._canary, longest)])

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
            await asyncio.wait_for(self._scheduler.submit([self._canary]), timeout_s)
        except TimeoutError as error:
            raise EngineError(f"no forward pass finished within {timeout_s:g} s") from error

    def close(self) -> None:
        """Finish what is queued, then free threads and engine."""
        self._scheduler.close()
        self._tokenizer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _default_prompt(self) -> str:
        model = self._manifest.model
        name = model.default_prompt_name
        return "" if name is None else model.prompts[name]

    def _check_dimensions(self, dimensions: int | None) -> None:
        if dimensions is None:
            return
        if dimensions <= 0:
            raise RequestError(
                "Input validation error: `dimensions` should be positive",
                hint=f"{dimensions} was given",
                param="dimensions",
            )
        full = self._manifest.model.embedding_dimension
        if dimensions > full:
            raise RequestError(
                "Input validation error: `dimensions` should be smaller than the maximum "
                "embedding dimension.",
                hint=f"{dimensions} was given; this model's embeddings have {full} dimensions",
                param="dimensions",
            )


def open_tokenizer(directory: Path, manifest: Manifest) -> Tokenizer:
    """Load the tokenizer of an engine directory, with the engine's length limit."""
    return Tokenizer.open(
        directory / "tokenizer",
        max_input_length=manifest.limits.max_input_length,
        lowercase=manifest.model.do_lower_case,
    )


def embed_texts(artifact: EngineArtifact, texts: Sequence[str]) -> Float32:
    """Embed `texts` with an engine directory from synchronous code; [num_texts, dimension].

    The same path as the server's, scheduler included: this is what the accuracy gate measures.
    """

    async def run() -> Float32:
        with InferencePipeline.open(artifact) as pipeline:
            return (await pipeline.embed(texts)).embeddings

    return asyncio.run(run())
