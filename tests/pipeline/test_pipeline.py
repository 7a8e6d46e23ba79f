"""What the pipeline answers, on an engine whose outputs are known beforehand."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from tests.server.fakes import (
    DIMENSION,
    LABELS,
    FakeEngine,
    logits,
    make_manifest,
    make_tokenizer,
    token_rows,
    vector,
    weights,
    word_ids,
)

from beicli.artifact.directory import EngineArtifact
from beicli.engine.batch import Float32
from beicli.errors import ArtifactError, EmptyInputError, RequestError, WrongTaskError
from beicli.model.spec import ScoreActivation, Task
from beicli.pipeline.pipeline import InferencePipeline
from beicli.pipeline.postprocess import sigmoid, softmax
from beicli.pipeline.tokenizer import Tokenizer, Truncation, TruncationDirection

T = TypeVar("T")

LONG = "w1 " * 20


def ask(
    engine: FakeEngine,
    question: Callable[[InferencePipeline], Awaitable[T]],
    *,
    has_tokens: bool = True,
    **spec: object,
) -> T:
    """Answer one question with a new pipeline; spec: what its model has instead of the usual."""
    manifest = make_manifest(engine.task, has_tokens=has_tokens)
    manifest = replace(manifest, model=replace(manifest.model, **spec))

    async def run() -> T:
        with InferencePipeline(manifest, make_tokenizer(), engine) as pipeline:
            return await question(pipeline)

    return asyncio.run(run())


def pair_logits(first: list[int], second: list[int], task: Task = Task.RERANKING) -> Float32:
    return logits([*word_ids(*first), *word_ids(*second)[1:]], task)


def test_an_engine_whose_tokenizer_cannot_be_read_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr("beicli.pipeline.loaded_engine.load_engine", lambda *_: engine)

    with pytest.raises(Exception, match="tokenizer"):
        InferencePipeline.open(EngineArtifact(tmp_path, make_manifest()))

    assert engine.is_closed


def test_a_tokenizer_that_fails_at_once_leaves_no_thread_and_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no words")

    engine = FakeEngine()
    monkeypatch.setattr(Tokenizer, "encode", fail)
    monkeypatch.setattr(
        "beicli.pipeline.loaded_engine._load", lambda *_: (engine, make_tokenizer())
    )
    threads = threading.active_count()

    with pytest.raises(ValueError, match="no words"):
        InferencePipeline.open(EngineArtifact(tmp_path, make_manifest()))

    assert threading.active_count() == threads
    assert engine.is_closed


def test_equal_texts_are_computed_once_and_answered_each_time() -> None:
    engine = FakeEngine(Task.RERANKING)
    texts = ["w2", "w3", "w2", "", "w3", "w2"]

    result = ask(engine, lambda pipeline: pipeline.rerank("w1", texts))

    wanted = {"w2": pair_logits([1], [2]), "w3": pair_logits([1], [3]), "": pair_logits([1], [])}
    assert engine.num_sequences == 3
    assert np.allclose(result.scores, [sigmoid(wanted[text])[0] for text in texts])
    assert result.usage.num_tokens == 5 * 5 + 4
    assert result.usage.input_lengths == (5, 5, 5, 4, 5, 5)
    assert result.usage.num_truncated_inputs == 0


def test_equal_inputs_are_computed_once_whatever_is_asked_of_them() -> None:
    texts = ["w2", "w3 w4", "w2", "w3 w4", "w5"]
    embedder, classifier, tagger = map(
        FakeEngine, (Task.EMBEDDING, Task.CLASSIFICATION, Task.TOKEN_CLASSIFICATION)
    )

    embedded = ask(embedder, lambda pipeline: pipeline.embed(texts))
    states = ask(embedder, lambda pipeline: pipeline.embed_tokens(texts))
    scored = ask(classifier, lambda pipeline: pipeline.predict(texts, raw_scores=True))
    tagged = ask(tagger, lambda pipeline: pipeline.predict_tokens(texts))

    wanted = [word_ids(2), word_ids(3, 4), word_ids(2), word_ids(3, 4), word_ids(5)]
    assert np.allclose(embedded.embeddings, [vector(ids) for ids in wanted])
    assert all(map(np.allclose, states.embeddings, map(token_rows, wanted)))
    assert np.array_equal(scored.scores, [logits(ids, Task.CLASSIFICATION) for ids in wanted])
    assert tagged.entities[0] == tagged.entities[2] != tagged.entities[1] == tagged.entities[3]
    assert (embedder.num_sequences, classifier.num_sequences, tagger.num_sequences) == (6, 3, 3)
    assert embedded.usage.num_tokens == sum(map(len, wanted))
    assert embedded.usage.input_lengths == tuple(map(len, wanted))


def test_raw_scores_of_a_ranking_are_logits() -> None:
    engine = FakeEngine(Task.RERANKING)

    result = ask(engine, lambda pipeline: pipeline.rerank("w1", ["w2"], raw_scores=True))

    assert result.scores == pair_logits([1], [2])


@pytest.mark.parametrize("direction", TruncationDirection)
def test_overlong_texts_of_a_ranking_are_cut_and_counted_each_time(
    direction: TruncationDirection,
) -> None:
    engine = FakeEngine(Task.RERANKING)
    text = " ".join(f"w{number}" for number in range(2, 22))
    truncation = Truncation(direction=direction)

    result = ask(
        engine, lambda pipeline: pipeline.rerank("w1", [text, "w2", text], truncation=truncation)
    )

    kept = list(range(2, 14) if direction is TruncationDirection.RIGHT else range(10, 22))
    assert np.allclose(result.scores[0], sigmoid(pair_logits([1], kept)))
    assert result.usage.input_lengths == (24, 5, 24)
    assert result.usage.num_truncated_inputs == 2
    assert result.usage.num_tokens == 16 + 5 + 16


def test_a_ranking_without_query_or_texts_is_refused() -> None:
    engine = FakeEngine(Task.RERANKING)
    with pytest.raises(EmptyInputError, match="query"):
        ask(engine, lambda pipeline: pipeline.rerank("", ["w1"]))
    with pytest.raises(EmptyInputError, match="texts"):
        ask(engine, lambda pipeline: pipeline.rerank("w1", []))


def test_the_label_that_stands_for_relevance_ranks() -> None:
    engine = FakeEngine(Task.CLASSIFICATION)

    def rerank(pipeline: InferencePipeline) -> Awaitable[object]:
        return pipeline.rerank("w1", ["w2"])

    result = ask(engine, lambda pipeline: pipeline.rerank("w1", ["w2"]), relevance_label=1)
    with pytest.raises(WrongTaskError) as failure:
        ask(engine, rerank)

    scores = softmax(pair_logits([1], [2], Task.CLASSIFICATION))
    assert np.allclose(result.scores, scores[1], atol=1e-6)
    assert failure.value.message == "Backend error: model is not a re-ranker model"


def test_a_reranker_with_a_prompt_is_asked_with_it() -> None:
    engine = FakeEngine(Task.RERANKING)
    template = "w7 {{ query }} w8 {{ document }} w9"
    texts = ["w2", LONG, "w2"]

    result = ask(
        engine,
        lambda pipeline: pipeline.rerank("w1", texts, raw_scores=True),
        rerank_template=template,
    )

    def wanted(document: list[int]) -> Float32:
        return logits(word_ids(7, 1, 8, *document, 9)[1:-1], Task.RERANKING)

    assert engine.num_sequences == 2
    assert np.allclose(result.scores, [wanted([2])[0], wanted([1] * 12)[0], wanted([2])[0]])
    assert result.usage.input_lengths == (5, 24, 5)
    assert result.usage.num_truncated_inputs == 1


def test_samples_of_a_reranker_with_a_prompt_are_its_pairs() -> None:
    engine = FakeEngine(Task.RERANKING)

    outputs = ask(
        engine,
        lambda pipeline: pipeline.outputs([("w1", "w2"), "w3"]),
        rerank_template="{{ query }} w8 {{ document }}",
    )

    assert outputs[0] == logits(word_ids(1, 8, 2)[1:-1], Task.RERANKING)
    assert outputs[1] == logits(word_ids(3), Task.RERANKING)


def test_a_damaged_prompt_is_refused_before_threads_run() -> None:
    with pytest.raises(ArtifactError, match="not a Jinja template"):
        ask(
            FakeEngine(Task.RERANKING),
            lambda pipeline: pipeline.rerank("w1", ["w2"]),
            rerank_template="{{ query",
        )


@pytest.mark.parametrize(
    ("activation", "function"),
    [(ScoreActivation.SOFTMAX, softmax), (ScoreActivation.SIGMOID, sigmoid)],
)
def test_texts_and_pairs_are_scored_with_the_models_activation(
    activation: ScoreActivation, function: Callable[[Float32], Float32]
) -> None:
    engine = FakeEngine(Task.CLASSIFICATION)
    wanted = np.stack([logits(word_ids(1)), pair_logits([2], [3], Task.CLASSIFICATION)])

    result = ask(
        engine,
        lambda pipeline: pipeline.predict(["w1", ("w2", "w3")]),
        score_activation=activation,
    )

    assert np.array_equal(result.scores, function(wanted))
    assert result.scores.shape == (2, len(LABELS[Task.CLASSIFICATION]))
    assert result.usage.input_lengths == (3, 5)


def test_raw_predictions_are_logits() -> None:
    engine = FakeEngine(Task.CLASSIFICATION)

    result = ask(engine, lambda pipeline: pipeline.predict(["w1"], raw_scores=True))

    assert np.array_equal(result.scores, [logits(word_ids(1))])


def test_a_reranker_predicts_its_one_label() -> None:
    result = ask(FakeEngine(Task.RERANKING), lambda pipeline: pipeline.predict([("w1", "w2")]))

    assert np.array_equal(result.scores, [sigmoid(pair_logits([1], [2]))])


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (lambda p: p.predict(["w1"]), "Backend error: Model is not a classifier model"),
        (lambda p: p.rerank("w1", ["w2"]), "Backend error: model is not a re-ranker model"),
        (
            lambda p: p.embed_sparse(["w1"]),
            "Backend error: Model is not an embedding model with SPLADE pooling",
        ),
    ],
)
def test_an_embedding_model_says_what_it_is_not(
    question: Callable[[InferencePipeline], Awaitable[object]], message: str
) -> None:
    with pytest.raises(WrongTaskError) as failure:
        ask(FakeEngine(), question)

    assert failure.value.message == message


@pytest.mark.parametrize(
    ("task", "question"),
    [
        (Task.EMBEDDING, lambda p: p.embed([])),
        (Task.EMBEDDING, lambda p: p.embed_tokens([])),
        (Task.SPARSE_EMBEDDING, lambda p: p.embed_sparse([])),
        (Task.CLASSIFICATION, lambda p: p.predict([])),
    ],
)
def test_a_request_without_inputs_is_refused_and_does_not_wait_for_ever(
    task: Task, question: Callable[[InferencePipeline], Awaitable[object]]
) -> None:
    with pytest.raises(EmptyInputError, match="`inputs` cannot be empty"):
        ask(FakeEngine(task), question)


def test_every_token_has_a_row_of_its_own() -> None:
    inputs = ["w1 w2", "w3 " * 13, word_ids(4)]

    result = ask(FakeEngine(), lambda pipeline: pipeline.embed_tokens(inputs))

    wanted = [word_ids(1, 2), word_ids(*[3] * 13), word_ids(4)]
    for rows, ids in zip(result.embeddings, wanted, strict=True):
        assert rows.shape == (len(ids), DIMENSION)
        assert np.array_equal(rows, token_rows(ids))


def test_a_few_tokens_rows_do_not_keep_their_whole_batch_in_memory() -> None:
    async def both(pipeline: InferencePipeline) -> list[list[Float32]]:
        few, many = await asyncio.gather(
            pipeline.embed_tokens(["w1"]), pipeline.embed_tokens(["w2 " * 14] * 8)
        )
        return [few.embeddings, many.embeddings]

    for embeddings in ask(FakeEngine(), both):
        for rows in embeddings:
            assert rows.base is None or rows.base.nbytes <= 2 * rows.nbytes


def test_an_engine_without_token_outputs_says_how_to_get_them() -> None:
    with pytest.raises(WrongTaskError, match="no token embeddings") as failure:
        ask(FakeEngine(), lambda pipeline: pipeline.embed_tokens(["w1"]), has_tokens=False)

    assert "rebuild" in (failure.value.hint or "")


def test_sparse_vectors_hold_what_is_not_zero() -> None:
    engine = FakeEngine(Task.SPARSE_EMBEDDING)

    result = ask(engine, lambda pipeline: pipeline.embed_sparse(["w5 w1 w5", "w2"]))

    for found, ids in zip(result.vectors, [word_ids(5, 1, 5), word_ids(2)], strict=True):
        row = weights(ids)
        assert found.indices.tolist() == np.flatnonzero(row).tolist()
        assert found.values.tolist() == row[row > 0].tolist()
        assert found.values.base is None


def test_a_sparse_model_has_no_token_embeddings() -> None:
    with pytest.raises(WrongTaskError, match="`embed_all` is not available for SPLADE models"):
        ask(FakeEngine(Task.SPARSE_EMBEDDING), lambda pipeline: pipeline.embed_tokens(["w1"]))


PROMPTS = {"prompts": {"query": "w7 ", "document": "w8 "}, "default_prompt_name": "document"}


def test_the_default_prompt_is_for_texts_and_not_for_token_ids() -> None:
    result = ask(FakeEngine(), lambda pipeline: pipeline.embed(["w1", word_ids(2)]), **PROMPTS)

    assert np.allclose(result.embeddings, [vector(word_ids(8, 1)), vector(word_ids(2))], atol=1e-6)


def test_a_prompt_that_is_asked_for_replaces_the_default() -> None:
    async def embed(pipeline: InferencePipeline) -> list[Float32]:
        named = pipeline.find_prompt(prompt_name="query", input_type=None)
        results = [await pipeline.embed(["w1"], prompt=prompt) for prompt in (named, "")]
        return [result.embeddings[0] for result in results]

    named, none = ask(FakeEngine(), embed, **PROMPTS)

    assert np.allclose(named, vector(word_ids(7, 1)), atol=1e-6)
    assert np.allclose(none, vector(word_ids(1)), atol=1e-6)


def test_a_prompt_that_is_asked_for_cannot_be_put_before_token_ids() -> None:
    def embed(prompt: str) -> object:
        return ask(FakeEngine(), lambda p: p.embed(["w1", word_ids(2)], prompt=prompt), **PROMPTS)

    embed("")
    with pytest.raises(RequestError, match="before token ids") as failure:
        embed("w7 ")

    assert "input 1 is a list of token ids" in (failure.value.hint or "")
    assert failure.value.param == "prompt_name"


def test_tokenizing_and_decoding_ask_no_model() -> None:
    engine = FakeEngine()

    async def there_and_back(pipeline: InferencePipeline) -> list[str]:
        tokenized = await pipeline.tokenize(["w1 w2", "w3"], prompt="w9 ")
        return await pipeline.decode([item.ids.tolist() for item in tokenized])

    assert ask(engine, there_and_back) == ["w9 w1 w2", "w9 w3"]
    assert engine.num_sequences == 0


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        (Task.EMBEDDING, vector(word_ids(1))),
        (Task.SPARSE_EMBEDDING, weights(word_ids(1))),
        (Task.CLASSIFICATION, logits(word_ids(1))),
        (Task.TOKEN_CLASSIFICATION, token_rows(word_ids(1), Task.TOKEN_CLASSIFICATION)),
    ],
)
def test_samples_give_what_answers_are_made_from(task: Task, wanted: Float32) -> None:
    [output] = ask(FakeEngine(task), lambda pipeline: pipeline.outputs(["w1"]))

    assert np.allclose(output, wanted, atol=1e-6)
