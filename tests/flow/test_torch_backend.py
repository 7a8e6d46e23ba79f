"""An engine that torch computes, built, served and asked as any other, with the same answers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.flow.conftest import BEI, EXAMPLES, RunningServer, post, run_bei, serving

from beicli.builder.texts import REFERENCE_TEXTS

pytestmark = pytest.mark.models

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def torch_engine(minilm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("torch") / "engine"
    override = f"trt_llm.build.checkpoint_repository.repo={minilm_checkpoint}"
    done = run_bei(
        "build",
        EXAMPLES / "all-minilm-l6-v2",
        "--backend",
        "torch",
        "--set",
        override,
        "--json",
        "-o",
        output,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["backend"], said["precision"]) == ("torch", "f32")
    return output


@pytest.fixture(scope="module")
def torch_server(torch_engine: Path) -> Iterator[RunningServer]:
    with serving(torch_engine) as running:
        yield running


def embed(server: RunningServer, texts: list[str]) -> np.ndarray:
    answer = post(server, "/v1/embeddings", {"input": texts, "model": "any"})
    return np.array([row["embedding"] for row in answer["data"]])


def test_the_vectors_are_those_of_the_openvino_engine(
    torch_server: RunningServer, build_minilm: Callable[[str], Path]
) -> None:
    texts = list(REFERENCE_TEXTS[:32])
    with serving(build_minilm("f32")) as other:
        expected = embed(other, texts)

    found = embed(torch_server, texts)

    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(found - found[0]).max() > 100 * TOLERANCE


def test_the_outputs_of_tokens_are_served_too(
    torch_server: RunningServer, build_minilm: Callable[[str], Path]
) -> None:
    body = {"inputs": ["A cat sleeps.", "A dog barks at the cat that sleeps."]}
    with serving(build_minilm("f32")) as other:
        expected = post(other, "/embed_all", body)

    found = post(torch_server, "/embed_all", body)

    assert [len(rows) for rows in found] == [len(rows) for rows in expected]
    for rows, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(rows, wanted, rtol=0, atol=TOLERANCE)


def test_validate_and_inspect_know_the_engine(torch_engine: Path) -> None:
    validated = run_bei("validate", torch_engine)
    inspected = run_bei("inspect", torch_engine, "--json")

    assert (validated.returncode, validated.stderr) == (0, "clean: 1 target\n")
    assert json.loads(inspected.stdout)["backend"] == "torch"


def test_the_server_passes_its_own_conformance_check(torch_server: RunningServer) -> None:
    done = run_bei("validate", torch_server.url)

    assert done.returncode == 0, done.stdout


def test_serving_without_torch_fails_and_says_how_to_install_it(
    torch_engine: Path, tmp_path: Path
) -> None:
    # Python then raises what it does for a package that is not there.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")

    done = subprocess.run(
        [sys.executable, str(BEI), "serve", str(torch_engine), "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )

    assert done.returncode == 1
    assert re.sub(r"\n+", "\n", done.stderr) == (
        "error: this engine computes with torch, and the package `torch` is not installed\n"
        "hint: install it with `pip install 'beicli[build]'`, or build the engine with "
        "`--backend openvino` where the model can be exported\n"
    )
