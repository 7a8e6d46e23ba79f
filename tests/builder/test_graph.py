import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tests.builder.tiny_models import (
    MAX_POSITIONS,
    save_checkpoint,
    save_model,
    save_splade,
    tiny_classifier,
    tiny_mpnet,
    tiny_qwen3,
    tiny_qwen3_reranker,
    tiny_roberta,
    tiny_token_classifier,
)

from beicli.artifact.manifest import OPENVINO_MODEL, TOKEN_OUTPUTS, TensorInfo
from beicli.builder import graph, openvino
from beicli.builder.graph import export_onnx
from beicli.errors import BuildError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling, Task
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import (
    EmbeddingModule,
    SparseEmbeddingModule,
    TaskModule,
    graph_inputs,
    pool,
)

TOLERANCE = 1e-5
REFERENCE_NAMES = {
    Pooling.CLS: "cls",
    Pooling.MAX: "max",
    Pooling.MEAN: "mean",
    Pooling.MEAN_SQRT_LEN: "mean_sqrt_len_tokens",
    Pooling.WEIGHTED_MEAN: "weightedmean",
    Pooling.LAST_TOKEN: "lasttoken",
}


def padded_mask(lengths: list[int]) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(torch.int32)


@pytest.mark.parametrize("pooling", REFERENCE_NAMES)
@pytest.mark.parametrize("lengths", [[5], [1], [1, 7, 3], [4, 4], [9, 1, 1, 8]])
def test_pooling_is_that_of_sentence_transformers(pooling: Pooling, lengths: list[int]) -> None:
    mask = padded_mask(lengths)
    hidden = torch.randn(*mask.shape, 16, generator=torch.Generator().manual_seed(3))
    reference = ReferencePooling(16, pooling_mode=REFERENCE_NAMES[pooling])

    pooled = pool(hidden, mask, pooling)

    expected = reference({"token_embeddings": hidden, "attention_mask": mask})
    torch.testing.assert_close(pooled, expected["sentence_embedding"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", REFERENCE_NAMES)
def test_pooling_does_not_see_the_padding(pooling: Pooling) -> None:
    mask = padded_mask([2, 5])
    hidden = torch.randn(*mask.shape, 16)
    spoilt = torch.where(mask.bool().unsqueeze(-1), hidden, 1e6)

    torch.testing.assert_close(pool(spoilt, mask, pooling), pool(hidden, mask, pooling))


@dataclass(frozen=True, slots=True)
class Exported:
    """A module and the OpenVINO model compiled from its export."""

    spec: ModelSpec
    module: TaskModule
    outputs: tuple[TensorInfo, ...]
    request: ov.InferRequest


def save_roberta(directory: Path) -> Path:
    return save_checkpoint(directory, tiny_roberta(), pooling="cls")


def save_mpnet(directory: Path) -> Path:
    return save_checkpoint(directory, tiny_mpnet(), pooling="mean")


def save_every_pooling(directory: Path) -> Path:
    save_checkpoint(directory, tiny_roberta(), pooling="cls")
    modes = json.dumps({"pooling_mode": list(REFERENCE_NAMES.values())})
    (directory / "1_Pooling" / "config.json").write_text(modes)
    return directory


def save_qwen3(directory: Path) -> Path:
    return save_checkpoint(directory, tiny_qwen3(), pooling="lasttoken")


def save_classifier(directory: Path) -> Path:
    return save_model(directory, tiny_classifier("A", "B", "C"))


def save_token_classifier(directory: Path) -> Path:
    return save_model(directory, tiny_token_classifier("O", "B-PER", "I-PER"))


def save_causal_classifier(directory: Path) -> Path:
    return save_model(directory, tiny_qwen3_reranker("no", "yes"))


@pytest.fixture(
    scope="session",
    params=[
        "dense",
        save_roberta,
        save_mpnet,
        save_every_pooling,
        save_qwen3,
        save_splade,
        save_classifier,
        save_token_classifier,
        save_causal_classifier,
    ],
    ids=[
        "bert-mean-dense",
        "roberta-cls",
        "mpnet-mean",
        "roberta-every-pooling",
        "qwen3-last-token",
        "bert-splade",
        "bert-classifier",
        "bert-token-classifier",
        "qwen3-classifier",
    ],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("exported")
    if request.param == "dense":
        checkpoint = request.getfixturevalue("dense_checkpoint")
    else:
        checkpoint = request.param(directory / "checkpoint")
    spec = inspect_checkpoint(checkpoint)
    module = load_module(checkpoint, spec)
    export_onnx(module, spec, directory / "model.onnx")
    outputs = openvino.convert(directory / "model.onnx", directory)
    compiled = ov.Core().compile_model(
        directory / OPENVINO_MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return Exported(spec, module, outputs, compiled.create_infer_request())


@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [2],
        [7, 7],
        [5, 3],
        [1, 1, 1],
        [MAX_POSITIONS],
        [MAX_POSITIONS, 1, 17],
        list(range(1, 20)),
    ],
    ids=str,
)
def test_the_compiled_graph_says_what_torch_says(exported: Exported, lengths: list[int]) -> None:
    mask = padded_mask(lengths)
    inputs = some_inputs(exported.spec, mask)

    outputs = exported.request.infer(
        {name: tensor.numpy() for name, tensor in inputs.items()}, share_inputs=True
    )

    with torch.no_grad():
        expected = exported.module(*inputs.values())
    for name, wanted in zip(exported.module.output_names, expected, strict=True):
        is_real = mask.bool() if name in TOKEN_OUTPUTS else slice(None)
        given = outputs[name][np.asarray(is_real) if name in TOKEN_OUTPUTS else is_real]
        np.testing.assert_allclose(given, wanted[is_real].numpy(), rtol=0, atol=TOLERANCE)
        assert wanted.abs().max() > 100 * TOLERANCE


def some_inputs(spec: ModelSpec, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Make up ids, and token types where the graph takes them, in the order of its inputs."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(5, spec.vocab_size, mask.shape, generator=generator)
    token_types = torch.randint(0, 2, mask.shape, generator=generator)
    given = {
        "input_ids": torch.where(mask.bool(), tokens, spec.pad_token_id),
        "attention_mask": mask,
        "token_type_ids": token_types * mask,
    }
    return {tensor.name: given[tensor.name].to(torch.int32) for tensor in graph_inputs(spec)}


def test_padding_changes_nothing(exported: Exported) -> None:
    alone = some_inputs(exported.spec, padded_mask([9]))
    padded = {
        name: torch.nn.functional.pad(tensor, (0, 6), value=1 if name == "input_ids" else 0)
        for name, tensor in alone.items()
    }

    with torch.no_grad():
        wanted, found = exported.module(*alone.values()), exported.module(*padded.values())

    for name, left, right in zip(exported.module.output_names, wanted, found, strict=True):
        kept = right[:, :9] if name in TOKEN_OUTPUTS else right
        torch.testing.assert_close(kept, left, rtol=0, atol=TOLERANCE)


OUTPUTS = {
    Task.EMBEDDING: ("embeddings", "token_embeddings"),
    Task.SPARSE_EMBEDDING: ("sparse_embeddings",),
    Task.CLASSIFICATION: ("logits",),
    Task.TOKEN_CLASSIFICATION: ("token_logits",),
}


def test_the_outputs_are_described_with_what_varies_in_them(exported: Exported) -> None:
    spec = exported.spec
    dimensions = {
        "embeddings": spec.embedding_dimension,
        "token_embeddings": spec.hidden_size,
        "sparse_embeddings": spec.vocab_size,
        "logits": len(spec.labels),
        "token_logits": len(spec.labels),
    }

    assert exported.outputs == tuple(
        TensorInfo(
            name=name,
            dtype="float32",
            shape=("batch", "length", dimensions[name])
            if name in TOKEN_OUTPUTS
            else ("batch", dimensions[name]),
        )
        for name in OUTPUTS[spec.task]
    )


def test_only_a_graph_that_tells_texts_apart_takes_token_types(exported: Exported) -> None:
    names = [tensor.name for tensor in graph_inputs(exported.spec)]
    compiled = exported.request.get_compiled_model()

    assert [port.get_any_name() for port in compiled.inputs] == names
    has_types = exported.spec.architecture == "BertForSequenceClassification"
    assert ("token_type_ids" in names) is has_types


@pytest.mark.parametrize("lengths", [[5], [1, 7, 3], [4, 4]])
def test_sparse_pooling_is_that_of_sentence_transformers(lengths: list[int]) -> None:
    mask = padded_mask(lengths)
    logits = torch.randn(*mask.shape, 50, generator=torch.Generator().manual_seed(3)) - 1
    reference = SpladePooling(pooling_strategy="max", activation_function="relu")

    (weights,) = SparseEmbeddingModule(FixedLogits(logits))(mask, mask)

    expected = reference.eval()({"token_embeddings": logits.clone(), "attention_mask": mask})
    torch.testing.assert_close(weights, expected["sentence_embedding"], rtol=0, atol=1e-6)
    assert (weights == 0).any()
    assert (weights > 0).any()


class FixedLogits(torch.nn.Module):
    """A language model that says the same whatever it is given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **_: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


class BranchesOnValues(torch.nn.Module):
    """Does what no graph can: decides by the numbers what to compute."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        if input_ids.sum() > 3:
            return (input_ids.unsqueeze(-1).float(),)
        return (attention_mask.unsqueeze(-1).float(),)


def test_a_model_that_cannot_be_exported_is_a_build_error(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    module = EmbeddingModule(BranchesOnValues(), (Pooling.CLS,), torch.nn.Sequential())

    with pytest.raises(BuildError, match="the model cannot be exported: ") as raised:
        export_onnx(module, inspect_checkpoint(tiny_checkpoint), tmp_path / "model.onnx")

    assert "\n" not in raised.value.message
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_that_openvino_cannot_read_is_a_build_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"this is no graph")

    with pytest.raises(BuildError, match="OpenVINO cannot read the exported graph") as raised:
        openvino.convert(tmp_path / "model.onnx", tmp_path)

    assert "`--backend torch`" in str(raised.value.hint)


def test_loading_and_exporting_print_nothing(
    tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.utils.logging.enable_progress_bar()
    spec = inspect_checkpoint(tiny_checkpoint)
    export_onnx(load_module(tiny_checkpoint, spec), spec, tmp_path / "model.onnx")

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_graphs_have_their_weights_beside_them_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Those of 16 bits too, but for the table of which rows are looked up."""
    monkeypatch.setattr(graph, "MAX_BYTES_IN_GRAPH", 0)
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_qwen3())
    path = checkpoint / "model.safetensors"
    weights = {name: weight.to(dtype) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    spec = inspect_checkpoint(checkpoint)
    module = load_module(checkpoint, spec)

    export_onnx(module, spec, tmp_path / "model.onnx")
    outputs = openvino.convert(tmp_path / "model.onnx", tmp_path)

    stored = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    half = {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16}
    is_table = [i.data_type in half for i in stored if i.dims == [spec.vocab_size, 32]]
    assert is_table == [True]
    assert sum(i.data_type in half for i in stored) == 1
    assert (tmp_path / "model.onnx.data").stat().st_size > sum(w.nbytes for w in weights.values())
    compiled = ov.Core().compile_model(
        tmp_path / OPENVINO_MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    ids = np.array([[7, 9, 11, 6]], dtype=np.int32)
    mask = np.ones_like(ids)
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids), torch.from_numpy(mask))[0].numpy()
    found = compiled({"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert outputs[0].shape == ("batch", 32)
