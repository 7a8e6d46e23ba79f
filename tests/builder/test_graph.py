from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling
from tests.builder.tiny_models import (
    MAX_POSITIONS,
    save_checkpoint,
    tiny_mpnet,
    tiny_qwen3,
    tiny_roberta,
)

from beicli.artifact.manifest import OPENVINO_MODEL, TensorInfo
from beicli.builder import openvino
from beicli.builder.graph import EmbeddingModule, export_onnx, load_module, pool
from beicli.errors import BuildError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling

TOLERANCE = 1e-5
REFERENCE_NAMES = {
    Pooling.CLS: "cls",
    Pooling.MEAN: "mean",
    Pooling.LAST_TOKEN: "lasttoken",
}


def padded_mask(lengths: list[int]) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(torch.int32)


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("lengths", [[5], [1], [1, 7, 3], [4, 4], [9, 1, 1, 8]])
def test_pooling_is_that_of_sentence_transformers(pooling: Pooling, lengths: list[int]) -> None:
    mask = padded_mask(lengths)
    hidden = torch.randn(*mask.shape, 16, generator=torch.Generator().manual_seed(3))
    reference = ReferencePooling(16, pooling_mode=REFERENCE_NAMES[pooling])

    pooled = pool(hidden, mask, pooling)

    expected = reference({"token_embeddings": hidden, "attention_mask": mask})
    torch.testing.assert_close(pooled, expected["sentence_embedding"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", Pooling)
def test_pooling_does_not_see_the_padding(pooling: Pooling) -> None:
    mask = padded_mask([2, 5])
    hidden = torch.randn(*mask.shape, 16)
    spoilt = torch.where(mask.bool().unsqueeze(-1), hidden, 1e6)

    torch.testing.assert_close(pool(spoilt, mask, pooling), pool(hidden, mask, pooling))


@dataclass(frozen=True, slots=True)
class Exported:
    """A module and the OpenVINO model compiled from its export."""

    spec: ModelSpec
    module: EmbeddingModule
    outputs: tuple[TensorInfo, ...]
    request: ov.InferRequest


def save_roberta(directory: Path) -> Path:
    return save_checkpoint(directory, tiny_roberta(), pooling="cls")


def save_mpnet(directory: Path) -> Path:
    return save_checkpoint(directory, tiny_mpnet(), pooling="mean")


def save_qwen3(directory: Path) -> Path:
    return save_checkpoint(directory, tiny_qwen3(), pooling="lasttoken")


@pytest.fixture(
    scope="session",
    params=["dense", save_roberta, save_mpnet, save_qwen3],
    ids=["bert-mean-dense", "roberta-cls", "mpnet-mean", "qwen3-last-token"],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("exported")
    if request.param == "dense":
        checkpoint = request.getfixturevalue("dense_checkpoint")
    else:
        checkpoint = request.param(directory / "checkpoint")
    spec = inspect_checkpoint(checkpoint)
    module = load_module(checkpoint, spec)
    export_onnx(module, directory / "model.onnx")
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
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(5, exported.spec.vocab_size, mask.shape, generator=generator)
    input_ids = torch.where(mask.bool(), tokens, exported.spec.pad_token_id).to(torch.int32)

    outputs = exported.request.infer(
        {"input_ids": input_ids.numpy(), "attention_mask": mask.numpy()}, share_inputs=True
    )

    with torch.no_grad():
        expected = exported.module(input_ids, mask).numpy()
    np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=TOLERANCE)
    assert np.abs(expected).max() > 100 * TOLERANCE


def test_the_output_is_described_with_its_dynamic_batch(exported: Exported) -> None:
    assert exported.outputs == (
        TensorInfo(
            name="embeddings",
            dtype="float32",
            shape=("batch", exported.spec.embedding_dimension),
        ),
    )


class BranchesOnValues(torch.nn.Module):
    """Does what no graph can: decides by the numbers what to compute."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        if input_ids.sum() > 3:
            return (input_ids.unsqueeze(-1).float(),)
        return (attention_mask.unsqueeze(-1).float(),)


def test_a_model_that_cannot_be_exported_is_a_build_error(tmp_path: Path) -> None:
    module = EmbeddingModule(BranchesOnValues(), Pooling.CLS, torch.nn.Sequential())

    with pytest.raises(BuildError, match="the model cannot be exported: ") as raised:
        export_onnx(module, tmp_path / "model.onnx")

    assert "\n" not in raised.value.message
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_that_openvino_cannot_read_is_a_build_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"this is no graph")

    with pytest.raises(BuildError, match="OpenVINO cannot read the exported graph"):
        openvino.convert(tmp_path / "model.onnx", tmp_path)


def test_loading_and_exporting_print_nothing(
    tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.utils.logging.enable_progress_bar()
    module = load_module(tiny_checkpoint, inspect_checkpoint(tiny_checkpoint))
    export_onnx(module, tmp_path / "model.onnx")

    assert capfd.readouterr() == ("", "")
