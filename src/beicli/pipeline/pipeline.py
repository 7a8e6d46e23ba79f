"""Text in, numbers out: tokenise, schedule, post-process. The only path to an engine's answers."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import TOKEN_OUTPUTS, Manifest
from beicli.engine.base import Engine
from beicli.engine.batch import Float32
from beicli.errors import WrongTaskError
from beicli.model.spec import Task
from beicli.pipeline.entities import AggregationStrategy, EntityFinder
from beicli.pipeline.loaded_engine import LoadedEngine, PipelineLimits
from beicli.pipeline.postprocess import (
    activate,
    check_dimensions,
    l2_normalize,
    own,
    relevance_logits,
    sigmoid,
    to_sparse,
    truncate_dimensions,
)
from beicli.pipeline.prompts import choose_prompt, find_prompt
from beicli.pipeline.results import (
    EmbeddingResult,
    EntityResult,
    PredictionResult,
    RerankResult,
    SparseEmbeddingResult,
    TokenEmbeddingResult,
    TokenizedText,
    Usage,
)
from beicli.pipeline.scoring import Ranking, ScoringEncoder
from beicli.pipeline.tokenizer import TextOrIds, TextPair, Tokenizer, Truncation
from beicli.pipeline.windows import merge_texts, window_texts
from beicli.scheduler.scheduler import FinishedBatch


class InferencePipeline(LoadedEngine):
    """One loaded engine and what it is asked; lives on one event loop.

    Every method that infers raises RequestError for a bad input, WrongTaskError if the model does
    not do what is asked, and EngineError when the engine fails.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        engine: Engine,
        *,
        on_batch: Callable[[FinishedBatch], None] | None = None,
        limits: PipelineLimits = PipelineLimits(),  # noqa: B008 - frozen
    ) -> None:
        # First, since this refuses a damaged prompt and the engine's threads do not run yet.
        self._scoring = ScoringEncoder(tokenizer, manifest.model.rerank_template)
        super().__init__(
            manifest,
            tokenizer,
            engine,
            on_batch=on_batch,
            limits=limits,
        )

    async def embed(
        self,
        inputs: Sequence[TextOrIds],
        *,
        dimensions: int | None = None,
        normalize: bool = True,
        prompt: str | None = None,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
    ) -> EmbeddingResult:
        """Embed texts or token ids.

        dimensions: keep the first so many, then renormalise. normalize: scale to unit length.
        prompt: put before each text; None takes the checkpoint's default (see `find_prompt`).
        """
        self._require(Task.EMBEDDING, "Model is not an embedding model")
        check_dimensions(dimensions, full=self.model.embedding_dimension)
        outputs, usage = await self._embed(inputs, prompt, truncation)
        rows = truncate_dimensions(np.stack(outputs), dimensions)
        return EmbeddingResult(l2_normalize(rows) if normalize else rows, usage)

    async def embed_tokens(
        self,
        inputs: Sequence[TextOrIds],
        *,
        prompt: str | None = None,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
    ) -> TokenEmbeddingResult:
        """Return the hidden state of every token, before pooling and not normalised."""
        if self.model.task is Task.SPARSE_EMBEDDING:
            raise WrongTaskError("Backend error: `embed_all` is not available for SPLADE models")
        self._require(Task.EMBEDDING, "Model is not an embedding model")
        if not any(output.name in TOKEN_OUTPUTS for output in self._manifest.outputs):
            raise WrongTaskError(
                "this engine has no token embeddings",
                hint="rebuild it with `bei build`, which adds them",
            )
        outputs, usage = await self._embed(inputs, prompt, truncation, needs_tokens=True)
        return TokenEmbeddingResult([own(rows) for rows in outputs], usage)

    async def embed_sparse(
        self,
        inputs: Sequence[TextOrIds],
        *,
        prompt: str | None = None,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
    ) -> SparseEmbeddingResult:
        """Return each input's weights over the vocabulary."""
        self._require(Task.SPARSE_EMBEDDING, "Model is not an embedding model with SPLADE pooling")
        outputs, usage = await self._embed(inputs, prompt, truncation)
        return SparseEmbeddingResult([to_sparse(row) for row in outputs], usage)

    async def predict(
        self,
        inputs: Sequence[str | TextPair],
        *,
        raw_scores: bool = False,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
    ) -> PredictionResult:
        """Score each label for texts and pairs of texts.

        A reranker with a prompt gets pairs of query and document written into it, and texts as
        they are.
        """
        if self.model.task not in {Task.CLASSIFICATION, Task.RERANKING}:
            raise WrongTaskError("Backend error: Model is not a classifier model")
        encodings, tokenization_s = await self._tokenize(
            lambda: self._scoring.encode(inputs, truncation), self._scoring.num_characters(inputs)
        )
        outputs, usage = await self._run(encodings, tokenization_s)
        logits = np.stack(outputs)
        return PredictionResult(logits if raw_scores else self._activate(logits), usage)

    async def rerank(
        self,
        query: str,
        texts: Sequence[str],
        *,
        raw_scores: bool = False,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
    ) -> RerankResult:
        """Score how relevant each text is for `query`; equal texts are tokenised once."""
        label = self.model.relevance_label
        if label is None:
            raise WrongTaskError("Backend error: model is not a re-ranker model")
        assert self.model.score_activation is not None, "classifiers have one"
        ranking = Ranking.of(query, texts)
        distinct, tokenization_s = await self._tokenize(
            lambda: self._scoring.encode_ranking(ranking, truncation),
            self._scoring.num_characters(ranking.pairs()),
        )
        outputs, usage = await self._run([distinct[row] for row in ranking.rows], tokenization_s)
        logits = relevance_logits(
            np.stack(outputs), label=label, activation=self.model.score_activation
        )
        return RerankResult(logits if raw_scores else sigmoid(logits), usage)

    async def predict_tokens(
        self,
        texts: Sequence[str],
        *,
        aggregation_strategy: AggregationStrategy = AggregationStrategy.NONE,
        raw_scores: bool = False,
        truncation: Truncation = Truncation(),  # noqa: B008 - frozen
    ) -> EntityResult:
        """Find the named entities of texts; see `EntityFinder.find`.

        Without truncation a text of any length is computed, in overlapping windows.
        """
        self._require(Task.TOKEN_CLASSIFICATION, "Model is not a token classifier model")
        num_characters = sum(map(len, texts))
        windowed, tokenization_s = await self._tokenize(
            lambda: window_texts(self._tokenizer, texts, truncation), num_characters
        )
        encodings = [encoding for text in windowed for encoding in text.encodings()]
        outputs, usage = await self._run(encodings, tokenization_s, needs_tokens=True)
        finder = EntityFinder(self.model.labels, self._tokenizer.word_rule)
        entities = await self._threads.run(
            lambda: finder.find(
                [text.text for text in windowed],
                merge_texts(windowed, outputs),
                strategy=aggregation_strategy,
                raw_scores=raw_scores,
            ),
            num_characters=num_characters,
        )
        lengths = tuple(text.original_length for text in windowed)
        return EntityResult(entities, replace(usage, input_lengths=lengths))

    async def tokenize(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, prompt: str = ""
    ) -> list[TokenizedText]:
        """Tokenise whole texts; no model is asked."""
        return await self._threads.run(
            lambda: self._tokenizer.tokenize(
                texts, prefix=prompt, add_special_tokens=add_special_tokens
            ),
            num_characters=sum(map(len, texts)) + len(prompt) * len(texts),
        )

    async def decode(
        self, sequences: Sequence[list[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """Turn token ids back into texts; no model is asked."""
        return await self._threads.run(
            lambda: self._tokenizer.decode(sequences, skip_special_tokens=skip_special_tokens),
            num_characters=sum(map(len, sequences)),
        )

    def find_prompt(self, *, prompt_name: str | None, input_type: str | None) -> str:
        """Return the text the checkpoint wants before an input; see `prompts.find_prompt`."""
        return find_prompt(self.model, prompt_name=prompt_name, input_type=input_type)

    async def outputs(self, samples: Sequence[str | TextPair]) -> list[Float32]:
        """Return what each sample's answer is made from, in the order of `samples`.

        [dimension] of unit length for embeddings, [vocab_size] for sparse ones; logits, of
        classifiers and rerankers [num_labels], of token classifiers [num_tokens, num_labels], whose
        samples are cut to the window.
        """
        match self.model.task:
            case Task.EMBEDDING:
                return list((await self.embed(_texts(samples))).embeddings)
            case Task.CLASSIFICATION | Task.RERANKING:
                return list((await self.predict(samples, raw_scores=True)).scores)
            case task:
                outputs, _ = await self._embed(
                    _texts(samples),
                    None,
                    Truncation(),
                    needs_tokens=task is Task.TOKEN_CLASSIFICATION,
                )
                return outputs

    def _require(self, task: Task, message: str) -> None:
        if self.model.task is not task:
            raise WrongTaskError(f"Backend error: {message}")

    def _activate(self, logits: Float32) -> Float32:
        assert self.model.score_activation is not None, "classifiers have one"
        return activate(logits, self.model.score_activation)

    async def _embed(
        self,
        inputs: Sequence[TextOrIds],
        prompt: str | None,
        truncation: Truncation,
        *,
        needs_tokens: bool = False,
    ) -> tuple[list[Float32], Usage]:
        prefix = choose_prompt(self.model, inputs, prompt)
        encodings, tokenization_s = await self._tokenize(
            lambda: self._tokenizer.encode(inputs, prefix=prefix, truncation=truncation),
            sum(map(len, inputs)) + len(prefix) * len(inputs),
        )
        return await self._run(encodings, tokenization_s, needs_tokens=needs_tokens)


def compute_outputs(artifact: EngineArtifact, samples: Sequence[str | TextPair]) -> list[Float32]:
    """Compute `InferencePipeline.outputs` with an engine directory from synchronous code.

    The same path as the server's, scheduler included: this is what the accuracy gate measures.
    """

    async def run() -> list[Float32]:
        with InferencePipeline.open(artifact) as pipeline:
            return await pipeline.outputs(samples)

    return asyncio.run(run())


def _texts(samples: Sequence[str | TextPair]) -> list[str]:
    texts = [sample for sample in samples if isinstance(sample, str)]
    assert len(texts) == len(samples), "only classifiers and rerankers take pairs"
    return texts
