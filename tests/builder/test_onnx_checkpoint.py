"""Checkpoints that are an ONNX model: the same engines as from the safetensors of that model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
import transformers
from tests.builder.builds import Recorder, run_build, write_config
from tests.builder.onnx_models import export_checkpoint
from tests.builder.tiny_models import (
    MAX_POSITIONS,
    Dense,
    save_checkpoint,
    save_model,
    save_splade,
    tiny_bert,
    tiny_classifier,
    tiny_masked_lm,
    tiny_qwen3,
    tiny_roberta,
    tiny_token_classifier,
)

from beicli.artifact.directory import EngineArtifact
from beicli.artifact.manifest import OPENVINO_MODEL, TOKEN_OUTPUTS
from beicli.builder import openvino
from beicli.builder.graph import export_onnx
from beicli.builder.onnx_checkpoint import write_onnx as write_engine_graph
from beicli.builder.reference import reference_outputs
from beicli.builder.samples import reference_samples
from beicli.errors import BuildError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Activation, ModelSpec, Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.onnx_network import fit_spec, onnx_network
from beicli.modeling.tasks import TaskModule, graph_inputs
from beicli.pipeline.pipeline import compute_outputs

TOLERANCE = 1e-5
POOLINGS = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
BATCHES = [[1], [5], [MAX_POSITIONS], [1, 7, 3], [4, 4], [MAX_POSITIONS, 1, 17]]
PLAIN = ("input_ids", "attention_mask")
WITH_TYPES = (*PLAIN, "token_type_ids")

Save = Callable[[Path], tuple[Path, transformers.PreTrainedModel]]


def save_encoder(
    model: Callable[[], transformers.PreTrainedModel], pooling: Any, *dense: Dense
) -> Save:
    def save(directory: Path) -> tuple[Path, transformers.PreTrainedModel]:
        encoder = model()
        save_checkpoint(directory, encoder, pooling=pooling, dense=dense)
        return directory, encoder

    return save


def save_whole(model: Callable[[], transformers.PreTrainedModel]) -> Save:
    def save(directory: Path) -> tuple[Path, transformers.PreTrainedModel]:
        whole = model()
        return save_model(directory, whole), whole

    return save


def save_sparse(directory: Path) -> tuple[Path, transformers.PreTrainedModel]:
    # The weights of the two are the same: they are drawn from the same seed.
    return save_splade(directory), tiny_masked_lm()


def classifier() -> transformers.PreTrainedModel:
    return tiny_classifier("A", "B", "C")


def token_classifier() -> transformers.PreTrainedModel:
    return tiny_token_classifier("O", "B-PER", "I-PER")


DENSE = [
    *(
        Dense(32, 32, activation=f"torch.nn.modules.activation.{activation}")
        for activation in Activation
        if activation is not Activation.IDENTITY
    ),
    Dense(32, 8, bias=False, activation="torch.nn.modules.linear.Identity"),
]
CASES: dict[str, tuple[Save, dict[str, Any]]] = {
    "every pooling, opset 11": (save_encoder(tiny_bert, POOLINGS), {"opset": 11}),
    "every pooling, opset 14": (save_encoder(tiny_bert, POOLINGS), {"opset": 14}),
    "every pooling, opset 18": (save_encoder(tiny_bert, POOLINGS), {"opset": 18}),
    "mean and cls, opset 23": (save_encoder(tiny_bert, ["mean", "cls"]), {"opset": 23}),
    "cls, without token types": (
        save_encoder(tiny_roberta, "cls"),
        {"opset": 14, "inputs": PLAIN},
    ),
    "cls, with positions": (
        save_encoder(tiny_roberta, "cls"),
        {"opset": 14, "inputs": (*PLAIN, "position_ids")},
    ),
    "last token, with positions": (
        save_encoder(tiny_qwen3, "lasttoken"),
        {"inputs": (*PLAIN, "position_ids")},
    ),
    "weights beside the graph": (
        save_encoder(tiny_bert, "mean", Dense(32, 8)),
        {"has_data_file": True},
    ),
    "at the root": (save_encoder(tiny_bert, "mean"), {"opset": 14, "name": "model.onnx"}),
    "classifier": (save_whole(classifier), {"opset": 14}),
    "classifier, without token types": (
        save_whole(classifier),
        {"opset": 14, "inputs": PLAIN},
    ),
    "token classifier": (save_whole(token_classifier), {"opset": 14}),
    "splade, opset 11": (save_sparse, {"opset": 11}),
    "splade, opset 18": (save_sparse, {"opset": 18}),
    "dense, every activation": (save_encoder(tiny_bert, "mean", *DENSE), {"opset": 14}),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One model: as safetensors, and as ONNX with what is compiled of it."""

    spec: ModelSpec
    original: TaskModule
    onnx: TaskModule
    request: ov.InferRequest


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    save, options = CASES[request.param]
    directory = tmp_path_factory.mktemp("pair")
    checkpoint, model = save(directory / "original")
    exported = export_checkpoint(checkpoint, directory / "exported", model, **options)
    module = load_module(exported, inspect_checkpoint(exported))
    spec = fit_spec(inspect_checkpoint(exported), module)
    export_onnx(module, spec, directory / "model.onnx")
    openvino.convert(directory / "model.onnx", directory)
    compiled = ov.Core().compile_model(
        directory / OPENVINO_MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return Pair(spec, load_module(checkpoint, spec), module, compiled.create_infer_request())


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_the_graph_says_what_the_safetensors_say(pair: Pair, lengths: list[int]) -> None:
    inputs = some_inputs(pair.spec, lengths)

    outputs = pair.request.infer({name: tensor.numpy() for name, tensor in inputs.items()})

    is_token = inputs["attention_mask"].bool().numpy()
    with torch.no_grad():
        expected = pair.original(*inputs.values())
    assert len(outputs) == len(expected)
    for name, wanted in zip(pair.original.output_names, expected, strict=True):
        given = outputs[name]
        assert given.dtype == np.float32
        assert given.shape == wanted.shape
        rows = is_token if name in TOKEN_OUTPUTS else slice(None)
        np.testing.assert_allclose(given[rows], wanted.numpy()[rows], rtol=0, atol=TOLERANCE)
        assert wanted.abs().max() > 100 * TOLERANCE


def test_the_reference_says_what_the_safetensors_say(pair: Pair) -> None:
    inputs = some_inputs(pair.spec, [17])

    with torch.no_grad():
        outputs, expected = pair.onnx(*inputs.values()), pair.original(*inputs.values())

    for given, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=TOLERANCE)


def some_inputs(spec: ModelSpec, lengths: list[int]) -> dict[str, torch.Tensor]:
    """Make up ids and token types of a padded batch, as the graph of such a model takes them."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(5, spec.vocab_size, mask.shape, generator=generator)
    types = torch.randint(0, 2, mask.shape, generator=generator)
    given = {
        "input_ids": torch.where(mask, tokens, spec.pad_token_id),
        "attention_mask": mask,
        "token_type_ids": types * mask,
    }
    return {tensor.name: given[tensor.name].to(torch.int32) for tensor in graph_inputs(spec)}


def test_the_graph_is_plain_onnx_of_the_opset_of_the_checkpoint(tmp_path: Path) -> None:
    checkpoint, model = save_encoder(tiny_bert, POOLINGS)(tmp_path / "original")
    exported = export_checkpoint(checkpoint, tmp_path / "exported", model, opset=14)
    spec = inspect_checkpoint(exported)
    module = load_module(exported, spec)
    network = onnx_network(module)
    assert network is not None

    opset = write_engine_graph(network, module, spec, tmp_path / "model.onnx")

    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", opset)]
    assert opset == 14
    assert [value.name for value in graph.graph.input] == list(PLAIN)
    assert [value.name for value in graph.graph.output] == ["embeddings", "token_embeddings"]


def test_weights_beside_the_graph_are_not_copied(tmp_path: Path) -> None:
    checkpoint, model = save_encoder(tiny_bert, "mean")(tmp_path / "original")
    exported = export_checkpoint(checkpoint, tmp_path / "exported", model, has_data_file=True)
    # As in the hub client's cache, where every file is a link to its content.
    contents = tmp_path / "contents"
    contents.mkdir()
    for file in (exported / "onnx").iterdir():
        file.rename(contents / file.name[::-1])
        file.symlink_to(contents / file.name[::-1])
    spec = inspect_checkpoint(exported)

    export_onnx(load_module(exported, spec), spec, tmp_path / "model.onnx")

    assert (tmp_path / "model.onnx_data").samefile(contents / "atad_xnno.ledom")
    assert openvino.convert(tmp_path / "model.onnx", tmp_path)[0].name == "embeddings"


# -- whole builds -------------------------------------------------------------------------------


BUILDS: dict[str, tuple[Save, dict[str, Any]]] = {
    "embeddings": (save_encoder(tiny_bert, ["mean", "lasttoken"], Dense(64, 16)), {}),
    "classifier": (save_whole(classifier), {}),
    "token classifier": (save_whole(token_classifier), {}),
    "splade": (save_sparse, {}),
    "splade by its pooling": (save_whole(tiny_masked_lm), {"pooling": Pooling.SPLADE}),
}


@pytest.mark.parametrize("name", BUILDS)
def test_an_engine_gives_the_outputs_of_the_safetensors_alone_and_batched(
    tmp_path: Path, name: str
) -> None:
    save, options = BUILDS[name]
    checkpoint, model = save(tmp_path / "original")
    exported = export_checkpoint(checkpoint, tmp_path / "exported", model, opset=14)
    progress = Recorder()

    result = run_build(
        write_config(tmp_path, exported), tmp_path / "engine", progress=progress, **options
    )

    spec = result.artifact.manifest.model
    samples = reference_samples(spec)[:24]
    expected = reference_outputs(
        load_module(checkpoint, spec), checkpoint, spec, samples, max_input_length=MAX_POSITIONS
    )
    alone = [compute_outputs(result.artifact, [sample])[0] for sample in samples[:5]]
    batched = compute_outputs(result.artifact, samples)
    for given, wanted in [
        *zip(alone, expected, strict=False),
        *zip(batched, expected, strict=True),
    ]:
        np.testing.assert_allclose(given, wanted, rtol=0, atol=TOLERANCE)
    assert "of `onnx/model.onnx`, as there are no safetensors" in progress.details["Loaded"]
    assert progress.details["Exported"] == "ONNX, opset 14"
    assert progress.warnings == []
    assert result.report.reference == "ONNX Runtime, float32, one sample at a time"


def test_safetensors_win_over_an_onnx_model(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint = tmp_path / "both"
    shutil.copytree(tiny_checkpoint, checkpoint)
    (checkpoint / "onnx").mkdir()
    (checkpoint / "onnx" / "model.onnx").write_bytes(b"no graph at all")

    module = load_module(checkpoint, inspect_checkpoint(checkpoint))

    assert onnx_network(module) is None


def test_token_types_are_left_out_where_the_model_takes_none(tmp_path: Path) -> None:
    checkpoint, model = save_whole(classifier)(tmp_path / "original")
    exported = export_checkpoint(checkpoint, tmp_path / "exported", model, opset=14, inputs=PLAIN)

    result = run_build(write_config(tmp_path, exported), tmp_path / "engine")

    manifest = result.artifact.manifest
    assert inspect_checkpoint(exported).takes_token_type_ids
    assert not manifest.model.takes_token_type_ids
    assert tuple(tensor.name for tensor in manifest.inputs) == PLAIN


def test_the_torch_backend_refuses_it(tmp_path: Path) -> None:
    checkpoint, model = save_encoder(tiny_bert, "mean")(tmp_path / "original")
    exported = export_checkpoint(checkpoint, tmp_path / "exported", model, opset=14)

    with pytest.raises(BuildError) as raised:
        run_build(write_config(tmp_path, exported), tmp_path / "engine", backend="torch")

    assert raised.value.message == (
        "`--backend torch` computes safetensors, and the checkpoint has only `onnx/model.onnx`"
    )
    assert not (tmp_path / "engine").exists()


def test_a_compiler_that_fails_does_not_point_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, model = save_encoder(tiny_bert, "mean")(tmp_path / "original")
    exported = export_checkpoint(checkpoint, tmp_path / "exported", model, opset=14)

    def write_nothing(module: TaskModule, spec: ModelSpec, path: Path) -> int:
        path.write_bytes(b"no graph")
        return 14

    monkeypatch.setattr(openvino, "export_onnx", write_nothing)
    with pytest.raises(BuildError, match="OpenVINO cannot read") as raised:
        run_build(write_config(tmp_path, exported), tmp_path / "engine")

    assert "torch" not in (raised.value.hint or "")


def test_an_engine_that_disagrees_does_not_point_to_torch(tmp_path: Path) -> None:
    checkpoint, model = save_encoder(tiny_bert, "mean")(tmp_path / "original")
    exported = export_checkpoint(checkpoint, tmp_path / "exported", model, opset=14)

    with pytest.raises(BuildError, match="disagrees") as raised:
        run_build(
            write_config(tmp_path, exported),
            tmp_path / "engine",
            compute=lambda artifact, samples: [
                -output for output in compute_outputs(artifact, samples)
            ],
        )

    assert "torch" not in (raised.value.hint or "")


@pytest.mark.models
@pytest.mark.slow
def test_minilm_of_onnx_gives_the_vectors_of_its_safetensors(
    tmp_path: Path, minilm_checkpoint: Path
) -> None:
    model = transformers.AutoModel.from_pretrained(minilm_checkpoint)
    exported = export_checkpoint(minilm_checkpoint, tmp_path / "exported", model, opset=14)
    for name, checkpoint in {"original": minilm_checkpoint, "onnx": exported}.items():
        (tmp_path / name).mkdir()
        run_build(write_config(tmp_path / name, checkpoint), tmp_path / name / "engine")
    artifacts = [EngineArtifact.open(tmp_path / name / "engine") for name in ("original", "onnx")]
    samples = reference_samples(artifacts[0].manifest.model)
    vectors = [np.stack(compute_outputs(artifact, samples)) for artifact in artifacts]

    cosines = (vectors[0] * vectors[1]).sum(axis=1)

    assert cosines.min() > 0.99999
    assert json.loads((tmp_path / "onnx" / "engine" / "report.json").read_text())["num_samples"]
