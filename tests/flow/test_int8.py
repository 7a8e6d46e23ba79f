"""What is promised of 8 bit, kept by a real model behind a real server, on texts with labels."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.flow.conftest import CONFIG, RunningServer, post, run_bei, serving

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.names import REPORT_NAME

pytestmark = pytest.mark.models

LONGEST_ROUNDING = 5e-3


@pytest.fixture(scope="module")
def engine(models_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("int8") / "engine"
    checkpoint = models_directory / "all-minilm-l6-v2"
    overrides = (
        f"trt_llm.build.checkpoint_repository.repo={checkpoint}",
        "trt_llm.build.quantization_type=smooth_quant",
    )
    arguments = [part for override in overrides for part in ("--set", override)]
    done = run_bei("build", CONFIG, "-o", output, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Calibrated  36 products, on " in done.stderr
    return output


@pytest.fixture(scope="module")
def server(engine: Path) -> Iterator[RunningServer]:
    with serving(engine) as running:
        yield running


@pytest.fixture(scope="module")
def float_server(build_minilm: Callable[[str], Path]) -> Iterator[RunningServer]:
    with serving(build_minilm("f32")) as running:
        yield running


@pytest.fixture(scope="module")
def news(models_directory: Path) -> list[str]:
    lines = (models_directory / "lee50" / "lee.cor").read_text(encoding="latin-1").splitlines()
    return [line for line in lines if line.strip()]


def embed(server: RunningServer, texts: list[str]) -> np.ndarray:
    answer = post(server, "/v1/embeddings", {"input": texts})
    return np.array([item["embedding"] for item in answer["data"]])


def test_the_report_holds_the_limits_and_the_worst_texts(engine: Path) -> None:
    report = json.loads((engine / REPORT_NAME).read_text())

    assert report["precision"] == "int8"
    assert report["cosine_mean"] >= report["limits"]["cosine_mean"] == 0.995
    assert report["cosine_first_percentile"] >= report["limits"]["cosine_first_percentile"] == 0.98
    assert report["neighbour_overlap"] >= report["limits"]["neighbour_overlap"] == 0.95
    assert report["similarity_correlation"] >= report["limits"]["similarity_correlation"] == 0.995
    assert len(report["worst_samples"]) == 5


def test_most_products_are_in_8_bit_and_so_are_their_weights(engine: Path) -> None:
    manifest = EngineArtifact.open(engine).manifest
    quantization = manifest.quantization

    assert quantization is not None
    names = {*quantization.static, *quantization.dynamic, *quantization.kept}
    assert len(names) == 36
    assert quantization.quantized_fraction > 0.9
    # 22.7 million weights; the checkpoint has 91 MB of them.
    assert manifest.files["openvino/model.bin"].size_bytes < 26_000_000


def test_ordinary_texts_are_closer_than_the_gate_asks(
    server: RunningServer, float_server: RunningServer, news: list[str]
) -> None:
    found, wanted = embed(server, news), embed(float_server, news)

    cosines = (found * wanted).sum(axis=1)
    assert cosines.mean() > 0.995
    assert cosines.min() > 0.99


def test_what_people_find_similar_is_found_so_too(
    server: RunningServer, float_server: RunningServer, news: list[str], models_directory: Path
) -> None:
    judged = np.loadtxt(models_directory / "lee50" / "similarities0-1.txt")
    pairs = np.triu_indices(len(news), k=1)

    def agreement(vectors: np.ndarray) -> float:
        return float(np.corrcoef((vectors @ vectors.T)[pairs], judged[pairs])[0, 1])

    assert agreement(embed(float_server, news)) > 0.6
    assert agreement(embed(server, news)) > agreement(embed(float_server, news)) - 0.005


def test_a_text_has_the_same_vector_whatever_it_is_sent_with(
    server: RunningServer, news: list[str]
) -> None:
    together = embed(server, [news[0], "a", *news[1:]])
    alone = embed(server, [news[0]])

    assert np.abs(together[0] - alone[0]).max() < LONGEST_ROUNDING


def test_a_finished_engine_in_8_bit_validates(engine: Path) -> None:
    done = run_bei("validate", engine)

    assert done.returncode == 0, done.stdout + done.stderr
