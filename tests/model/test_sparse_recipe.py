"""Which checkpoints give sparse embeddings, and what is refused in their recipes."""

from pathlib import Path
from typing import Any

import pytest
from tests.model.checkpoint_folder import change_json, write_json, write_modules

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Pooling, Task

SPARSE = "sentence_transformers.sparse_encoder"
# As sentence-transformers has written it: at first, and since version 5.4.
SPLADE_MODULES = [
    (f"{SPARSE}.models.MLMTransformer", f"{SPARSE}.models.SpladePooling"),
    (
        f"{SPARSE}.models.MLMTransformer.MLMTransformer",
        f"{SPARSE}.models.SpladePooling.SpladePooling",
    ),
    (
        "sentence_transformers.base.modules.transformer.Transformer",
        f"{SPARSE}.modules.splade_pooling.SpladePooling",
    ),
]
SPLADE_CONFIG = {
    "pooling_strategy": "max",
    "activation_function": "relu",
    "word_embedding_dimension": 100,
}


@pytest.fixture
def splade(checkpoint: Path) -> Path:
    """A sound SPLADE checkpoint of sentence-transformers."""
    change_json(checkpoint / "config.json", architectures=["BertForMaskedLM"])
    write_modules(checkpoint, ("MLMTransformer", ""), ("SpladePooling", "1_SpladePooling"))
    write_json(checkpoint / "1_SpladePooling" / "config.json", SPLADE_CONFIG)
    return checkpoint


@pytest.mark.parametrize(("transformer", "pooling"), SPLADE_MODULES)
def test_a_sparse_encoder_is_described(splade: Path, transformer: str, pooling: str) -> None:
    write_modules(splade, (transformer, ""), (pooling, "1_SpladePooling"))

    spec = inspect_checkpoint(splade)

    assert (spec.task, spec.pooling) == (Task.SPARSE_EMBEDDING, (Pooling.SPLADE,))
    assert (spec.embedding_dimension, spec.hidden_size) == (100, 32)
    assert (spec.labels, spec.normalize) == ((), False)


def test_max_and_relu_are_taken_where_the_pooling_says_nothing(splade: Path) -> None:
    write_json(splade / "1_SpladePooling" / "config.json", {})

    assert inspect_checkpoint(splade).pooling == (Pooling.SPLADE,)


@pytest.mark.parametrize(
    ("key", "value", "supported"),
    [("pooling_strategy", "sum", "max"), ("activation_function", "log1p_relu", "relu")],
)
def test_other_kinds_of_splade_are_refused_by_name(
    splade: Path, key: str, value: str, supported: str
) -> None:
    change_json(splade / "1_SpladePooling" / "config.json", **{key: value})

    with pytest.raises(UnsupportedModelError) as raised:
        inspect_checkpoint(splade)

    assert f"`1_SpladePooling/config.json` has `{key}: {value}`" in raised.value.message
    assert f"supported is `{supported}`" in raised.value.message


def test_a_missing_pooling_file_is_named_with_its_path(splade: Path) -> None:
    path = splade / "1_SpladePooling" / "config.json"
    path.unlink()

    with pytest.raises(CheckpointError) as raised:
        inspect_checkpoint(splade)

    assert f"missing `1_SpladePooling/config.json` (expected at `{path}`)" in raised.value.message
    assert "--pooling splade" in str(raised.value.hint)


@pytest.mark.parametrize(
    "modules",
    [
        [("MLMTransformer", ""), ("Pooling", "1_Pooling")],
        [("Pooling", "1_Pooling"), ("SpladePooling", "1_SpladePooling")],
        [("SpladePooling", "1_SpladePooling")],
        [("MLMTransformer", "")],
        [("SpladePooling", "1_SpladePooling"), ("MLMTransformer", "")],
        [("MLMTransformer", ""), ("SpladePooling", "1_SpladePooling"), ("Normalize", "2_N")],
        [("MLMTransformer", ""), ("SpladePooling", "1_SpladePooling"), ("Dense", "2_Dense")],
    ],
)
def test_sparse_modules_chained_otherwise_are_refused(
    splade: Path, modules: list[tuple[str, str]]
) -> None:
    write_modules(splade, *modules)

    with pytest.raises(UnsupportedModelError, match="compiled for sparse embeddings is one"):
        inspect_checkpoint(splade)


@pytest.mark.parametrize(
    "kind",
    [
        f"{SPARSE}.models.SparseStaticEmbedding",
        f"{SPARSE}.models.SparseAutoEncoder",
        "sentence_transformers.models.Router",
        "my_package.SpladePooling",
    ],
)
def test_other_sparse_modules_are_refused_by_name(splade: Path, kind: str) -> None:
    write_modules(splade, ("MLMTransformer", ""), (kind, "1_SpladePooling"))

    with pytest.raises(UnsupportedModelError, match="cannot be compiled") as raised:
        inspect_checkpoint(splade)

    assert f"`{kind}`" in raised.value.message


@pytest.mark.parametrize("has_recipe", [True, False])
def test_splade_asked_for_needs_no_recipe(splade: Path, *, has_recipe: bool) -> None:
    if not has_recipe:
        (splade / "modules.json").unlink()
    (splade / "1_SpladePooling" / "config.json").unlink()

    spec = inspect_checkpoint(splade, pooling=Pooling.SPLADE)

    assert (spec.task, spec.embedding_dimension) == (Task.SPARSE_EMBEDDING, 100)


def test_splade_asked_for_wins_over_an_ordinary_recipe(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", architectures=["BertForMaskedLM"])

    assert inspect_checkpoint(checkpoint).task is Task.EMBEDDING
    assert inspect_checkpoint(checkpoint, pooling=Pooling.SPLADE).task is Task.SPARSE_EMBEDDING


def test_pooling_asked_for_makes_a_sparse_encoder_an_embedding_model(splade: Path) -> None:
    spec = inspect_checkpoint(splade, pooling=Pooling.MEAN)

    assert (spec.task, spec.pooling) == (Task.EMBEDDING, (Pooling.MEAN,))
    assert spec.embedding_dimension == 32


@pytest.mark.parametrize(
    ("change", "pooling"),
    [
        ({"architectures": ["BertModel"]}, Pooling.SPLADE),
        ({"architectures": ["BertModel"]}, None),
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, Pooling.SPLADE),
    ],
)
def test_a_model_without_a_masked_language_modelling_head_is_refused(
    splade: Path, change: dict[str, Any], pooling: Pooling | None
) -> None:
    change_json(splade / "config.json", **change)

    with pytest.raises(UnsupportedModelError) as raised:
        inspect_checkpoint(splade, pooling=pooling)

    assert raised.value.message == (
        "Splade pooling is not supported: model is not a ForMaskedLM model"
    )
    assert change["architectures"][0] in str(raised.value.hint)


def test_a_masked_language_model_with_nothing_said_is_told_of_splade(splade: Path) -> None:
    (splade / "modules.json").unlink()

    with pytest.raises(UnsupportedModelError, match="`BertForMaskedLM` is not") as raised:
        inspect_checkpoint(splade)

    assert "`--pooling splade`" in str(raised.value.hint)
