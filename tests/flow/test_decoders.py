"""A real decoder, read at its last token, gives the vectors of transformers, under three names."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.builder.builds import Recorder, run_build, write_config
from transformers import AutoModel, PreTrainedTokenizerFast

from beicli.artifact.directory import EngineArtifact
from beicli.model.spec import Pooling, Task
from beicli.pipeline.pipeline import InferencePipeline, compute_outputs

pytestmark = [pytest.mark.models, pytest.mark.slow]

LLAMA, MISTRAL, QWEN2 = "smollm2-135m", "smollm2-mistral", "smollm2-qwen2"
# Short, so that long texts are cut and the reference takes seconds.
WINDOW = 128
NUM_TEXTS = 20
TOLERANCE = 1e-4
MAX_DIFFERENCE_OF_TWINS = 1e-5

Build = Callable[[str], EngineArtifact]


@pytest.fixture(scope="module")
def checkpoint_of(
    models_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a folder of links to a test model; those of the larger set need not be there."""

    def link(name: str) -> Path:
        source = models_directory / name
        if not source.is_dir():
            pytest.skip(f"{name} is not there; run `python -m tests.models --output .models --all`")
        directory = tmp_path_factory.mktemp("checkpoints") / name
        directory.mkdir()
        for entry in source.iterdir():
            (directory / entry.name).symlink_to(entry)
        return directory

    return link


@pytest.fixture(scope="module")
def warnings_of() -> dict[str, list[str]]:
    """What `build` has heard of each model."""
    return {}


@pytest.fixture(scope="module")
def build(
    checkpoint_of: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    warnings_of: dict[str, list[str]],
) -> Iterator[Build]:
    """Build a test model in float32, once."""
    built: dict[str, EngineArtifact] = {}

    def build(name: str) -> EngineArtifact:
        if name not in built:
            checkpoint = checkpoint_of(name)
            directory = tmp_path_factory.mktemp(name)
            loaded = write_config(directory, checkpoint, max_num_tokens=WINDOW, max_batch_size=8)
            progress = Recorder()
            result = run_build(loaded, directory / "engine", progress=progress)
            built[name], warnings_of[name] = result.artifact, progress.warnings
        return built[name]

    yield build
    # Half a gigabyte each.
    for artifact in built.values():
        for path in artifact.path.glob("*.bin"):
            path.unlink()


@pytest.fixture(scope="module")
def texts(models_directory: Path) -> list[str]:
    """News of one token, of a few words, and beyond the window."""
    news = (models_directory / "lee50" / "lee_background.cor").read_text(encoding="utf-8")
    source = random.Random(0)
    articles = source.sample(news.splitlines(), NUM_TEXTS)
    num_words = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] + [400] * (NUM_TEXTS - 10)
    return [
        " ".join(article.split()[:limit])
        for article, limit in zip(articles, num_words, strict=True)
    ]


@pytest.fixture(scope="module")
def reference(checkpoint_of: Callable[[str], Path]) -> tuple[Any, Any]:
    """SmolLM2's tokenizer as its file says, and transformers' model in float32."""
    checkpoint = checkpoint_of(LLAMA)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return PreTrainedTokenizerFast.from_pretrained(checkpoint), model


def last_hidden_states(
    reference: tuple[Any, Any], texts: Sequence[str], *, padding_side: str
) -> np.ndarray:
    """Unit vectors of transformers' last hidden state at each text's last token."""
    tokenizer, model = reference
    tokenizer.padding_side = padding_side
    batch = tokenizer(
        list(texts), padding=True, truncation=True, max_length=WINDOW, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    if padding_side == "left":
        last = hidden[:, -1]
    else:
        lengths = batch["attention_mask"].sum(dim=1)
        last = hidden[torch.arange(len(texts)), lengths - 1]
    return torch.nn.functional.normalize(last, dim=-1).numpy()


def embed_ids(artifact: EngineArtifact, inputs: Sequence[list[int]]) -> np.ndarray:
    async def run() -> np.ndarray:
        with InferencePipeline.open(artifact) as pipeline:
            return np.asarray((await pipeline.embed(list(inputs))).embeddings)

    return asyncio.run(run())


def test_a_causal_language_model_with_a_recipe_is_an_embedding_model(build: Build) -> None:
    spec = build(LLAMA).manifest.model

    assert (spec.architecture, spec.model_type) == ("LlamaForCausalLM", "llama")
    assert (spec.task, spec.pooling) == (Task.EMBEDDING, (Pooling.LAST_TOKEN,))
    assert (spec.embedding_dimension, spec.num_hidden_layers) == (576, 30)


def test_vectors_are_the_last_hidden_states_of_transformers(
    build: Build, reference: tuple[Any, Any], texts: list[str]
) -> None:
    artifact = build(LLAMA)
    lengths = [len(reference[0](text)["input_ids"]) for text in texts]
    assert len(texts) == NUM_TEXTS
    assert min(lengths) == 1
    assert sum(length > WINDOW for length in lengths) >= 3

    vectors = np.stack(compute_outputs(artifact, texts))

    for side in ("right", "left"):
        expected = last_hidden_states(reference, texts, padding_side=side)
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=TOLERANCE, err_msg=side)
    # Texts are told apart, so equality says something.
    others = vectors @ vectors.T - 2 * np.eye(len(texts))
    assert others.max() < 1 - 1e-3


@pytest.mark.parametrize(("twin", "model_type"), [(MISTRAL, "mistral"), (QWEN2, "qwen2")])
def test_the_same_weights_under_another_architecture_give_the_same_vectors(
    build: Build, reference: tuple[Any, Any], texts: list[str], twin: str, model_type: str
) -> None:
    llama, other = build(LLAMA), build(twin)
    inputs = [reference[0](text, truncation=True, max_length=WINDOW)["input_ids"] for text in texts]

    difference = np.abs(embed_ids(other, inputs) - embed_ids(llama, inputs)).max()

    assert other.manifest.model.model_type == model_type
    assert difference <= MAX_DIFFERENCE_OF_TWINS


def test_a_qwen2_with_another_tokenizer_is_read_by_its_file(
    build: Build,
    warnings_of: dict[str, list[str]],
    reference: tuple[Any, Any],
    texts: list[str],
) -> None:
    """For that model type transformers 5 cuts words by Qwen2's pattern, whatever the file says."""
    vectors = np.stack(compute_outputs(build(QWEN2), texts))

    expected = last_hidden_states(reference, texts, padding_side="right")
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=TOLERANCE)
    assert sum("makes other tokens of" in warning for warning in warnings_of[QWEN2]) == 1
