from pathlib import Path
from typing import Any

import pytest
from tests.model.checkpoint_folder import change_json, write_dense, write_json, write_modules

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.recipe import Recipe, read_recipe
from beicli.model.spec import Activation, DenseModule, Pooling

POOLING_FLAGS = {
    "word_embedding_dimension": 32,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": False,
    "include_prompt": True,
}


def test_a_recipe_says_pooling_and_unit_length(checkpoint: Path) -> None:
    assert read_recipe(checkpoint) == Recipe((Pooling.MEAN,), (), normalize=True)


def test_a_recipe_without_normalize_says_so(checkpoint: Path) -> None:
    write_modules(checkpoint, ("Transformer", ""), ("Pooling", "1_Pooling"))

    assert not read_recipe(checkpoint).normalize


FLAGS = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST_TOKEN,
}
NAMES = {
    "cls": Pooling.CLS,
    "max": Pooling.MAX,
    "mean": Pooling.MEAN,
    "mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "weightedmean": Pooling.WEIGHTED_MEAN,
    "lasttoken": Pooling.LAST_TOKEN,
}


@pytest.mark.parametrize(("flag", "pooling"), FLAGS.items())
def test_pooling_is_read_from_flags(checkpoint: Path, flag: str, pooling: Pooling) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", POOLING_FLAGS | {flag: True})

    assert read_recipe(checkpoint).pooling == (pooling,)


def test_pooling_flags_that_are_not_stated_count_as_false(checkpoint: Path) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})

    assert read_recipe(checkpoint).pooling == (Pooling.CLS,)


@pytest.mark.parametrize(("name", "pooling"), NAMES.items())
@pytest.mark.parametrize("as_list", [False, True])
def test_pooling_is_read_from_its_name(
    checkpoint: Path, name: str, pooling: Pooling, *, as_list: bool
) -> None:
    mode = [name] if as_list else name
    write_json(checkpoint / "1_Pooling" / "config.json", {"pooling_mode": mode})

    assert read_recipe(checkpoint).pooling == (pooling,)


def test_the_name_wins_over_the_flags(checkpoint: Path) -> None:
    config = POOLING_FLAGS | {"pooling_mode": "cls", "pooling_mode_mean_tokens": True}
    write_json(checkpoint / "1_Pooling" / "config.json", config)

    assert read_recipe(checkpoint).pooling == (Pooling.CLS,)


@pytest.mark.parametrize(
    "config", [{"pooling_mode": "attention"}, {"pooling_mode_attention": True}]
)
def test_an_unknown_pooling_is_refused_by_name(checkpoint: Path, config: Any) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", config)

    with pytest.raises(UnsupportedModelError, match=r"asks for pooling .*attention;") as raised:
        read_recipe(checkpoint)

    assert "`1_Pooling/config.json`" in raised.value.message
    assert "--pooling" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("config", "order"),
    [
        (
            POOLING_FLAGS | {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            (Pooling.CLS, Pooling.MEAN),
        ),
        ({"pooling_mode": ["mean", "cls"]}, (Pooling.MEAN, Pooling.CLS)),
    ],
)
def test_several_poolings_are_concatenated(
    checkpoint: Path, config: Any, order: tuple[Pooling, ...]
) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", config)

    spec = inspect_checkpoint(checkpoint)

    assert spec.pooling == order
    assert spec.embedding_dimension == 2 * spec.hidden_size


def test_flags_that_are_all_false_mean_the_mean(checkpoint: Path) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", POOLING_FLAGS)

    assert read_recipe(checkpoint).pooling == (Pooling.MEAN,)


def test_no_pooling_at_all_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", {"embedding_dimension": 32})

    with pytest.raises(UnsupportedModelError, match="asks for pooling of no kind"):
        read_recipe(checkpoint)


def test_a_pooling_flag_of_a_wrong_type_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": "yes"})

    with pytest.raises(CheckpointError, match=r"`pooling_mode_mean_tokens` .* is 'yes'"):
        read_recipe(checkpoint)


def test_pooling_that_leaves_the_prompt_out_is_refused(checkpoint: Path) -> None:
    change_json(checkpoint / "1_Pooling" / "config.json", include_prompt=False)

    with pytest.raises(UnsupportedModelError, match="leaves prompt tokens out of pooling"):
        read_recipe(checkpoint)


def test_given_pooling_wins_over_the_checkpoints(checkpoint: Path) -> None:
    write_json(checkpoint / "1_Pooling" / "config.json", {"pooling_mode": "max"})

    assert read_recipe(checkpoint, pooling=Pooling.LAST_TOKEN) == Recipe(
        (Pooling.LAST_TOKEN,), (), normalize=True
    )


def test_given_pooling_allows_for_a_recipe_without_pooling(checkpoint: Path) -> None:
    write_modules(checkpoint, ("Transformer", ""), ("Normalize", "1_Normalize"))

    assert read_recipe(checkpoint, pooling=Pooling.CLS).pooling == (Pooling.CLS,)


def test_a_recipe_without_pooling_is_refused(checkpoint: Path) -> None:
    write_modules(checkpoint, ("Transformer", ""), ("Normalize", "1_Normalize"))

    with pytest.raises(CheckpointError, match="names no Pooling module") as raised:
        read_recipe(checkpoint)

    assert "--pooling" in str(raised.value.hint)


def test_classes_are_known_by_their_name_wherever_sentence_transformers_keeps_them(
    checkpoint: Path,
) -> None:
    write_modules(
        checkpoint,
        ("sentence_transformers.base.modules.transformer.Transformer", ""),
        ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", "1_Pooling"),
    )

    assert read_recipe(checkpoint).pooling == (Pooling.MEAN,)


def test_dropout_does_nothing(checkpoint: Path) -> None:
    expected = read_recipe(checkpoint)
    write_modules(
        checkpoint,
        ("Transformer", ""),
        ("Dropout", "1_Dropout"),
        ("Pooling", "1_Pooling"),
        ("Dropout", "2_Dropout"),
        ("Normalize", "3_Normalize"),
    )

    assert read_recipe(checkpoint) == expected


@pytest.mark.parametrize(
    "kind", ["LSTM", "WordEmbeddings", "custom_module.Transformer", "pylate.models.Dense.Dense"]
)
def test_a_module_that_is_not_known_is_refused_by_name(checkpoint: Path, kind: str) -> None:
    write_modules(checkpoint, ("Transformer", ""), (kind, "1"), ("Pooling", "1_Pooling"))

    with pytest.raises(UnsupportedModelError, match=f"{kind}`, which cannot be compiled"):
        read_recipe(checkpoint)


@pytest.mark.parametrize(
    "kinds",
    [
        ("Pooling", "Transformer"),
        ("Transformer", "Dense", "Pooling"),
        ("Transformer", "Pooling", "Normalize", "Dense"),
        ("Transformer", "Pooling", "Pooling"),
        ("Transformer", "Transformer", "Pooling"),
        ("Pooling", "Normalize"),
        ("Dropout",),
    ],
)
def test_modules_in_an_order_that_means_something_else_are_refused(
    checkpoint: Path, kinds: tuple[str, ...]
) -> None:
    write_dense(checkpoint, "1_Dense")
    folders = {"Pooling": "1_Pooling", "Dense": "1_Dense"}
    write_modules(checkpoint, *((kind, folders.get(kind, "")) for kind in kinds))

    with pytest.raises(UnsupportedModelError, match=r"`modules.json` chains"):
        read_recipe(checkpoint)


@pytest.mark.parametrize("folder", ["../1_Pooling", "/etc", "a/../../b", ".."])
def test_a_module_outside_the_checkpoint_is_refused(checkpoint: Path, folder: str) -> None:
    write_json(checkpoint.parent / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    write_modules(checkpoint, ("Transformer", ""), ("Pooling", folder))

    with pytest.raises(CheckpointError, match="lies outside the checkpoint") as raised:
        read_recipe(checkpoint)

    assert f"`{folder}`" in raised.value.message


@pytest.mark.parametrize("content", [{}, [], ["Transformer"], None, [[]], 3])
def test_a_modules_file_that_lists_no_modules_is_refused(checkpoint: Path, content: Any) -> None:
    write_json(checkpoint / "modules.json", content)

    with pytest.raises(CheckpointError, match=r"modules.json` is not a list of modules"):
        read_recipe(checkpoint)


@pytest.mark.parametrize("module", [{"path": ""}, {"type": 1}, {"type": "a.Pooling", "path": 1}])
def test_a_module_without_type_or_with_an_odd_path_is_refused(
    checkpoint: Path, module: Any
) -> None:
    write_json(checkpoint / "modules.json", [module])

    with pytest.raises(CheckpointError, match="without `type` or with an odd `path`"):
        read_recipe(checkpoint)


@pytest.fixture
def dense_checkpoint(checkpoint: Path) -> Path:
    write_modules(checkpoint, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))
    write_dense(checkpoint, "2_Dense")
    return checkpoint


@pytest.mark.parametrize(
    ("function", "activation"),
    [
        ("torch.nn.modules.activation.Tanh", Activation.TANH),
        ("torch.nn.modules.linear.Identity", Activation.IDENTITY),
        ("torch.nn.modules.activation.GELU", Activation.GELU),
        ("torch.nn.ReLU", Activation.RELU),
        (None, Activation.TANH),
    ],
)
def test_a_dense_module_is_read(
    dense_checkpoint: Path, function: str | None, activation: Activation
) -> None:
    change_json(
        dense_checkpoint / "2_Dense" / "config.json",
        out_features=8,
        bias=False,
        activation_function=function,
    )

    assert read_recipe(dense_checkpoint).dense == (
        DenseModule(
            path="2_Dense", in_features=32, out_features=8, bias=False, activation=activation
        ),
    )


@pytest.mark.parametrize(
    "function", ["torch.nn.modules.activation.PReLU", "os.system", "my_module.Tanh", "Tanh"]
)
def test_an_activation_that_is_not_known_is_refused_by_name(
    dense_checkpoint: Path, function: str
) -> None:
    change_json(dense_checkpoint / "2_Dense" / "config.json", activation_function=function)

    with pytest.raises(UnsupportedModelError, match=f"uses the activation `{function}`"):
        read_recipe(dense_checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {"use_residual": True},
        {"module_input_name": "token_embeddings"},
        {"module_output_name": "token_embeddings"},
    ],
)
def test_a_dense_module_wired_differently_is_refused(
    dense_checkpoint: Path, change: dict[str, Any]
) -> None:
    change_json(dense_checkpoint / "2_Dense" / "config.json", **change)

    with pytest.raises(UnsupportedModelError, match=r"`2_Dense/config\.json`"):
        read_recipe(dense_checkpoint)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_of_a_dense_module_is_named(dense_checkpoint: Path, name: str) -> None:
    (dense_checkpoint / "2_Dense" / name).unlink()

    with pytest.raises(CheckpointError, match=f"the checkpoint has no `2_Dense/{name}`"):
        read_recipe(dense_checkpoint)


@pytest.mark.parametrize(("key", "value"), [("in_features", 0), ("out_features", "8")])
def test_a_dense_size_that_makes_no_sense_is_refused(
    dense_checkpoint: Path, key: str, value: Any
) -> None:
    change_json(dense_checkpoint / "2_Dense" / "config.json", **{key: value})

    with pytest.raises(CheckpointError, match=f"`{key}` in `2_Dense/config.json`"):
        read_recipe(dense_checkpoint)
