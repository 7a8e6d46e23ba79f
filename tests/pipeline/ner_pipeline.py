"""A pipeline for named entities on an engine that is no engine: torch, or a table of logits."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tests.server.fakes import make_manifest

from beicli.artifact.manifest import Limits
from beicli.engine.batch import Batch, EngineOutput, Float32
from beicli.model.spec import Task
from beicli.pipeline.entities import AggregationStrategy
from beicli.pipeline.pipeline import InferencePipeline
from beicli.pipeline.results import EntityResult
from beicli.pipeline.tokenizer import Tokenizer, Truncation

CUT = Truncation()

# Of a sequence's ids, [num_tokens], the logits of its tokens, [num_tokens, num_labels].
ComputeLogits = Callable[[Sequence[int]], Float32]


@dataclass
class LogitsEngine:
    """Computes one sequence after the other, so that batching moves no number."""

    compute: ComputeLogits
    num_slots: int = 1
    preferred_num_tokens: int = 1024
    lengths: list[int] = field(default_factory=list)

    def padded_length(self, num_tokens: int) -> int:
        return num_tokens

    def forward(self, batch: Batch) -> EngineOutput:
        assert batch.needs_tokens, "a token classifier has no other output"
        sequences = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        self.lengths += [len(ids) for ids in sequences]
        return EngineOutput(None, np.concatenate([self.compute(ids.tolist()) for ids in sequences]))

    def close(self) -> None: ...


def torch_logits(model: Any) -> ComputeLogits:
    """Compute with a transformers model; equal sequences once."""
    import torch  # noqa: PLC0415 - slow to import, and most tests here need none

    known: dict[tuple[int, ...], Float32] = {}

    def compute(ids: Sequence[int]) -> Float32:
        key = tuple(ids)
        if key not in known:
            with torch.inference_mode():
                known[key] = model(input_ids=torch.tensor([key])).logits[0].numpy()
        return known[key]

    return compute


def predict(
    engine: LogitsEngine,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    texts: Sequence[str],
    *,
    strategies: Sequence[AggregationStrategy] = (AggregationStrategy.NONE,),
    raw_scores: bool = False,
    truncation: Truncation = CUT,
) -> list[EntityResult]:
    """Ask a new pipeline for the entities of all texts, once a strategy."""
    manifest = make_manifest(Task.TOKEN_CLASSIFICATION)
    limit = tokenizer.max_input_length
    manifest = replace(
        manifest,
        model=replace(manifest.model, labels=tuple(labels)),
        limits=Limits(max_num_tokens=2 * limit, max_batch_size=64, max_input_length=limit),
    )

    async def run() -> list[EntityResult]:
        with InferencePipeline(manifest, tokenizer, engine) as pipeline:
            return [
                await pipeline.predict_tokens(
                    texts,
                    aggregation_strategy=strategy,
                    raw_scores=raw_scores,
                    truncation=truncation,
                )
                for strategy in strategies
            ]

    return asyncio.run(run())
