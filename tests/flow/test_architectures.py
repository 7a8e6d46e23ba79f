"""The same real weights under another architecture give the same vectors through the engine."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tests.flow.conftest import run_bei

from beicli.artifact.directory import EngineArtifact
from beicli.builder.texts import REFERENCE_TEXTS
from beicli.pipeline.pipeline import compute_outputs

pytestmark = pytest.mark.models

CONFIG = """\
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository: {{source: LOCAL, repo: {checkpoint}}}
"""


@pytest.fixture(scope="module")
def build(
    models_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], EngineArtifact]:
    def build(name: str) -> EngineArtifact:
        directory = tmp_path_factory.mktemp(name)
        config = directory / "config.yaml"
        config.write_text(CONFIG.format(checkpoint=models_directory / name), encoding="utf-8")
        done = run_bei("build", config, "-o", directory / "engine", "--precision", "f32")
        assert done.returncode == 0, done.stderr
        return EngineArtifact.open(directory / "engine")

    return build


def embed(engine: EngineArtifact, texts: Sequence[str]) -> np.ndarray:
    return np.stack(compute_outputs(engine, texts))


def min_cosine(a: np.ndarray, b: Sequence[Sequence[float]] | np.ndarray) -> float:
    return float(np.sum(a * np.asarray(b), axis=1).min())


def test_bert_as_roberta_gives_the_vectors_of_bert(
    build: Callable[[str], EngineArtifact], build_minilm: Callable[[str], Path]
) -> None:
    """The RoBERTa family counts positions from the padding id + 1."""
    roberta = build("roberta-minilm")
    bert = EngineArtifact.open(build_minilm("f32"))

    assert roberta.manifest.model.position_offset == 1
    texts = REFERENCE_TEXTS
    assert min_cosine(embed(roberta, texts), embed(bert, texts)) > 0.99999


def test_xlm_roberta_with_a_unigram_tokenizer_equals_sentence_transformers(
    build: Callable[[str], EngineArtifact], models_directory: Path
) -> None:
    e5 = build("xlmr-e5-small")
    texts = [f"query: {text}" for text in REFERENCE_TEXTS]
    reference = SentenceTransformer(
        str(models_directory / "xlmr-e5-small"), device="cpu", local_files_only=True
    )

    assert e5.manifest.model.position_offset == 2
    assert e5.manifest.limits.max_input_length == 512
    assert e5.manifest.model.prompts["query"] == "query: "
    expected = reference.encode(texts, normalize_embeddings=True)
    assert min_cosine(embed(e5, texts), expected) > 0.9999
