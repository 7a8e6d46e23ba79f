"""Scores and logits of built engines are the numbers of sentence-transformers' CrossEncoder."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from tests.builder.builds import Recorder, run_build, write_config
from tests.builder.tiny_models import save_model, tiny_classifier
from tests.model.checkpoint_folder import change_json

from beicli.artifact.directory import EngineArtifact
from beicli.builder.texts import SHORT_PAIRS
from beicli.pipeline.pipeline import InferencePipeline

TOLERANCE = 1e-4
TORCH = "torch.nn.modules"
PAIRS = list(SHORT_PAIRS[:12])


def save_cross_encoder(
    directory: Path, *labels: str, activation_fn: str | None = None, **config: str
) -> Path:
    # Of a tokenizer without a class of its own transformers 5 leaves token types out.
    names = ["input_ids", "token_type_ids", "attention_mask"]
    model = tiny_classifier(*labels, initializer_range=0.3)
    save_model(directory, model, model_input_names=names)
    section = None if activation_fn is None else {"activation_fn": activation_fn}
    change_json(directory / "config.json", sentence_transformers=section, **config)
    return directory


def build(checkpoint: Path, progress: Recorder | None = None) -> EngineArtifact:
    directory = checkpoint.parent
    loaded = write_config(directory, checkpoint)
    return run_build(loaded, directory / "engine", progress=progress).artifact


def predict(artifact: EngineArtifact, *, raw_scores: bool = False) -> np.ndarray:
    """[num_pairs, num_labels]."""

    async def run() -> np.ndarray:
        with InferencePipeline.open(artifact) as pipeline:
            return (await pipeline.predict(PAIRS, raw_scores=raw_scores)).scores

    return asyncio.run(run())


def rerank(artifact: EngineArtifact, *, raw_scores: bool = False) -> np.ndarray:
    """[num_pairs], of the texts of all pairs for the query of the first."""
    query, texts = PAIRS[0][0], [text for _, text in PAIRS]

    async def run() -> np.ndarray:
        with InferencePipeline.open(artifact) as pipeline:
            return (await pipeline.rerank(query, texts, raw_scores=raw_scores)).scores

    return asyncio.run(run())


def expected_of(checkpoint: Path, pairs: list[tuple[str, str]] = PAIRS) -> np.ndarray:
    """What sentence-transformers gives, with the function the checkpoint states."""
    encoder = CrossEncoder(str(checkpoint), device="cpu", local_files_only=True)
    return np.asarray(encoder.predict(pairs, show_progress_bar=False))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    # They tell the pairs apart, so that equality says something.
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE


def test_logits_of_a_reranker_are_the_scores_of_a_cross_encoder_with_identity(
    tmp_path: Path,
) -> None:
    checkpoint = save_cross_encoder(
        tmp_path / "checkpoint", "LABEL_0", activation_fn=f"{TORCH}.linear.Identity"
    )
    progress = Recorder()
    artifact = build(checkpoint, progress)
    expected = expected_of(checkpoint)
    of_query = expected_of(checkpoint, [(PAIRS[0][0], text) for _, text in PAIRS])

    assert_close(predict(artifact, raw_scores=True)[:, 0], expected)
    assert_close(rerank(artifact, raw_scores=True), of_query)
    # Its scores are probabilities all the same.
    assert_close(rerank(artifact), 1 / (1 + np.exp(-of_query)))
    assert progress.warnings == []


def test_scores_of_a_reranker_are_those_of_a_cross_encoder_with_sigmoid(tmp_path: Path) -> None:
    # The key of versions before 4.
    stated = {"sbert_ce_default_activation_function": f"{TORCH}.activation.Sigmoid"}
    checkpoint = save_cross_encoder(tmp_path / "checkpoint", "LABEL_0", **stated)

    artifact = build(checkpoint)

    assert_close(predict(artifact)[:, 0], expected_of(checkpoint))


@pytest.mark.parametrize("function", ["Sigmoid", "Softmax"])
@pytest.mark.filterwarnings("ignore:Implicit dimension choice for softmax")
def test_several_labels_score_by_the_function_that_is_stated(tmp_path: Path, function: str) -> None:
    checkpoint = save_cross_encoder(
        tmp_path / "checkpoint", "A", "B", "C", activation_fn=f"{TORCH}.activation.{function}"
    )
    progress = Recorder()

    artifact = build(checkpoint, progress)

    scores = predict(artifact)
    assert_close(scores, expected_of(checkpoint))
    assert np.allclose(scores.sum(axis=1), 1) == (function == "Softmax")
    assert artifact.manifest.model.score_activation == function.lower()
    assert progress.warnings == []


def test_a_checkpoint_as_sentence_transformers_saves_it_is_read(tmp_path: Path) -> None:
    source = save_cross_encoder(
        tmp_path / "source", "A", "B", activation_fn=f"{TORCH}.activation.Sigmoid"
    )
    encoder = CrossEncoder(str(source), device="cpu", local_files_only=True)
    encoder.save_pretrained(str(tmp_path / "checkpoint"))

    artifact = build(tmp_path / "checkpoint")

    assert_close(predict(artifact), np.asarray(encoder.predict(PAIRS, show_progress_bar=False)))


def test_a_function_that_is_not_known_leaves_the_logits_and_is_warned_of(tmp_path: Path) -> None:
    checkpoint = save_cross_encoder(
        tmp_path / "checkpoint", "LABEL_0", activation_fn=f"{TORCH}.activation.Tanh"
    )
    progress = Recorder()

    artifact = build(checkpoint, progress)

    # As the warning says: the function over the logits gives the numbers of the CrossEncoder.
    assert_close(np.tanh(predict(artifact, raw_scores=True)[:, 0]), expected_of(checkpoint))
    assert len(progress.warnings) == 1
    assert "`activation_fn` is `Tanh`, which is not applied" in progress.warnings[0]
