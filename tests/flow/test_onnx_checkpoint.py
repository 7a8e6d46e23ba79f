"""A checkpoint that is an ONNX model alone: validated, built, served and asked, by the command."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.builder.onnx_models import export_checkpoint
from tests.builder.tiny_models import save_checkpoint, tiny_bert
from tests.flow.conftest import RunningServer, post, run_bei, serving

from beicli.builder.reference import reference_outputs
from beicli.builder.texts import REFERENCE_TEXTS
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module

TEXTS = list(REFERENCE_TEXTS[:16])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as safetensors."""
    return save_checkpoint(tmp_path_factory.mktemp("original") / "tiny", tiny_bert())


@pytest.fixture(scope="module")
def config(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("onnx")
    export_checkpoint(original, directory / "checkpoint", tiny_bert(), opset=14)
    # What lies beside it in most repositories; none of it is a graph.
    (directory / "checkpoint" / "onnx" / "model_quantized.onnx").write_bytes(b"other numbers")
    repository = {"source": "LOCAL", "repo": "checkpoint"}
    build = {"base_model": "encoder_bert", "checkpoint_repository": repository}
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump({"model_name": "Tiny", "trt_llm": {"build": build}}))
    return path


@pytest.fixture(scope="module")
def engine(config: Path) -> Path:
    output = config.parent / "engine"
    done = run_bei("build", config, "--precision", "f32", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "parameters of `onnx/model.onnx`, as there are no safetensors" in done.stderr
    assert "ONNX, opset 14" in done.stderr
    assert done.stdout.strip() == str(output)
    return output


@pytest.fixture(scope="module")
def server(engine: Path) -> Iterator[RunningServer]:
    with serving(engine) as running:
        yield running


def test_the_vectors_are_those_of_the_safetensors(server: RunningServer, original: Path) -> None:
    spec = inspect_checkpoint(original)
    module = load_module(original, spec)
    expected = reference_outputs(module, original, spec, TEXTS, max_input_length=64)

    together = post(server, "/v1/embeddings", {"input": TEXTS, "model": "any"})["data"]
    alone = post(server, "/v1/embeddings", {"input": TEXTS[0], "model": "any"})["data"]

    vectors = np.array([row["embedding"] for row in together])
    np.testing.assert_allclose(vectors, np.stack(expected), rtol=0, atol=1e-5)
    np.testing.assert_allclose(alone[0]["embedding"], expected[0], rtol=0, atol=1e-5)


def test_the_configuration_is_valid_and_its_engine_is(config: Path, engine: Path) -> None:
    done = run_bei("validate", config, engine, "--json")

    assert done.returncode == 0, done.stderr + done.stdout
    assert "checkpoint-file" not in done.stdout
    parameters = sum(parameter.numel() for parameter in tiny_bert().parameters())
    counted = next(find(json.loads(done.stdout), "num_parameters"))
    # By the size of a file that holds the graph too, which of so small a model is most of it.
    assert parameters < counted < 10 * parameters


def find(value: object, key: str) -> Iterator[int]:
    """Yield what is under `key` anywhere in what was answered."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from find(part, key)


def test_torch_is_refused_with_what_to_do(config: Path) -> None:
    done = run_bei("build", config, "--backend", "torch", "-o", config.parent / "of-torch")

    assert done.returncode == 1
    assert (
        "error: `--backend torch` computes safetensors, and the checkpoint has only "
        "`onnx/model.onnx`" in done.stderr
    )
    assert not (config.parent / "of-torch").exists()


def test_a_quantised_variant_alone_is_refused(config: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (checkpoint / name).write_bytes((config.parent / "checkpoint" / name).read_bytes())
    (checkpoint / "model_quantized.onnx").write_bytes(b"other numbers")
    override = f"trt_llm.build.checkpoint_repository.repo={checkpoint}"

    done = run_bei("build", config, "--set", override, "-o", tmp_path / "engine")

    assert done.returncode == 1
    assert "found `model_quantized.onnx`, and nothing but `model.onnx`" in done.stderr
