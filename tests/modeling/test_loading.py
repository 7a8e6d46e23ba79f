import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tests.builder.tiny_models import MAX_POSITIONS

from beicli.builder.texts import GOLDEN_TEXTS
from beicli.errors import BuildError, UnsupportedModelError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Activation, DenseModule, ModelSpec
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import TaskModule

TOLERANCE = 1e-5


def load(checkpoint: Path) -> tuple[ModelSpec, TaskModule]:
    spec = inspect_checkpoint(checkpoint)
    return spec, load_module(checkpoint, spec)


@pytest.mark.parametrize("name", ["tiny_checkpoint", "dense_checkpoint"])
def test_a_module_says_what_sentence_transformers_says(
    request: pytest.FixtureRequest, name: str
) -> None:
    checkpoint: Path = request.getfixturevalue(name)
    _, module = load(checkpoint)
    reference = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    encoded = reference.tokenizer(
        list(GOLDEN_TEXTS),
        padding=True,
        truncation=True,
        max_length=MAX_POSITIONS,
        return_tensors="pt",
    )

    with torch.no_grad():
        pooled, _ = module(encoded["input_ids"], encoded["attention_mask"])

    expected = reference.encode(list(GOLDEN_TEXTS), show_progress_bar=False)
    normalized = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    np.testing.assert_allclose(normalized, expected, rtol=0, atol=TOLERANCE)


def test_a_pooler_that_was_not_saved_is_not_missed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "no-pooler")
    change_weights(checkpoint, without("pooler"))
    ones = torch.ones(1, 4, dtype=torch.int32)

    _, module = load(checkpoint)

    _, expected = load(tiny_checkpoint)
    torch.testing.assert_close(module(ones, ones), expected(ones, ones))


def test_weights_saved_under_a_language_modelling_head_are_found(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "masked-lm")
    change_weights(checkpoint, lambda weights: {f"bert.{k}": v for k, v in weights.items()})
    change_config(checkpoint, architectures=["BertForMaskedLM"])
    ones = torch.ones(1, 4, dtype=torch.int32)

    _, module = load(checkpoint)

    _, expected = load(tiny_checkpoint)
    torch.testing.assert_close(module(ones, ones), expected(ones, ones))


def change_weights(
    checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    path = checkpoint / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(checkpoint: Path, **values: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


def drop_a_layer(checkpoint: Path) -> None:
    change_weights(checkpoint, without("layer.1."))


def rename_everything(checkpoint: Path) -> None:
    change_weights(checkpoint, lambda weights: {f"other.{k}": v for k, v in weights.items()})


def ask_for_another_layer(checkpoint: Path) -> None:
    change_config(checkpoint, num_hidden_layers=3)


def ask_for_another_shape(checkpoint: Path) -> None:
    change_config(checkpoint, intermediate_size=48)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (drop_a_layer, "encoder.layer.1.attention.output.LayerNorm.bias"),
        (rename_everything, "embeddings.LayerNorm.bias"),
        (ask_for_another_layer, "encoder.layer.2.attention.output.LayerNorm.bias"),
        (ask_for_another_shape, "encoder.layer.0.intermediate.dense.bias"),
    ],
)
def test_weights_that_are_not_there_are_never_made_up(
    tiny_checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    damage(checkpoint)

    with pytest.raises(BuildError, match="missing or of another shape") as raised:
        load(checkpoint)

    assert f"such as `{name}`" in raised.value.message


@pytest.mark.parametrize("num_bytes", [0, 4, 1000, -1000])
def test_damaged_weights_are_refused(tiny_checkpoint: Path, tmp_path: Path, num_bytes: int) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])

    with pytest.raises(BuildError, match="the weights cannot be loaded"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "martian"}, "does not recognize this architecture"),
        ({"hidden_act": "no-such-function"}, "no-such-function"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"layer_norm_eps": "small"}, "'layer_norm_eps' expected float"),
    ],
)
def test_a_model_that_transformers_cannot_make_is_refused_with_its_reason(
    tiny_checkpoint: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "odd")
    change_config(checkpoint, **change)

    with pytest.raises(UnsupportedModelError, match="transformers cannot load") as raised:
        load(checkpoint)

    assert reason in raised.value.message


def test_code_of_a_checkpoint_is_never_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "with-code")
    trace = tmp_path / "was-run"
    code = f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n"
    (checkpoint / "modeling_custom.py").write_text(code)
    change_config(
        checkpoint,
        model_type="custom",
        auto_map={"AutoConfig": "modeling_custom.C", "AutoModel": "modeling_custom.M"},
    )

    with pytest.raises(UnsupportedModelError, match="contains custom code") as raised:
        load(checkpoint)

    assert "never run" in str(raised.value.hint)
    assert not trace.exists()
    assert not any("modeling_custom" in name for name in sys.modules)


@pytest.mark.parametrize(
    "weights",
    [
        {"linear.weight": torch.zeros(8, 31), "linear.bias": torch.zeros(8)},
        {"linear.weight": torch.zeros(8, 32)},
        {"other.weight": torch.zeros(8, 32), "other.bias": torch.zeros(8)},
    ],
)
def test_dense_weights_that_do_not_fit_their_config_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "dense")
    (checkpoint / "2_Dense").mkdir()
    save_file(weights, checkpoint / "2_Dense" / "model.safetensors")

    with pytest.raises(BuildError, match=r"`2_Dense/model\.safetensors` does not fit"):
        load_module(checkpoint, spec_with_dense(checkpoint))


def test_damaged_dense_weights_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "dense")
    (checkpoint / "2_Dense").mkdir()
    (checkpoint / "2_Dense" / "model.safetensors").write_bytes(b"not safetensors")

    with pytest.raises(BuildError, match=r"`2_Dense/model\.safetensors`"):
        load_module(checkpoint, spec_with_dense(checkpoint))


def spec_with_dense(checkpoint: Path) -> ModelSpec:
    dense = DenseModule(
        path="2_Dense", in_features=32, out_features=8, bias=True, activation=Activation.TANH
    )
    return replace(inspect_checkpoint(checkpoint), dense_modules=(dense,))
