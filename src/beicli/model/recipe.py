"""The sentence-transformers recipe of a checkpoint: what comes after the encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from beicli.errors import CheckpointError, ConfigError, UnsupportedModelError
from beicli.model.files import CheckpointFile, is_file, read_json
from beicli.model.spec import Activation, DenseModule, Pooling

# As `1_Pooling/config.json` has named the modes: flags until version 5, one key since.
_POOLING_BY_NAME = {
    "cls": Pooling.CLS,
    "max": Pooling.MAX,
    "mean": Pooling.MEAN,
    "mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "weightedmean": Pooling.WEIGHTED_MEAN,
    "lasttoken": Pooling.LAST_TOKEN,
}
# In the order in which several are concatenated.
_MODE_BY_FLAG = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# The order they are compiled in; another order, or a second pooling, would mean something else.
_MODULE_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
# A SparseEncoder's. Since version 5.4 its first module is a Transformer with another task.
_SPARSE_MODULES = ({"Transformer", "MLMTransformer"}, {"SpladePooling"})
_SPARSE_ONLY = frozenset({"MLMTransformer", "SpladePooling"})
# sentence-transformers' own classes; a checkpoint may also bring classes of its own.
_MODULE_PREFIX = "sentence_transformers."
# Jina's, a Transformer that chooses an adapter; which one is decided when the engine is built.
_JINA_TRANSFORMER = "custom_st.Transformer"
_OVERRIDE_HINT = (
    "if you know how the model was trained, write `environment_variables: {POOLING: mean}` (or cls,"
    " or last_token), or build with `--pooling`"
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Pooling, then Dense modules in order, then unit length or not.

    pooling: several are concatenated; empty for classifiers, which have no recipe.
    """

    pooling: tuple[Pooling, ...]
    dense: tuple[DenseModule, ...]
    normalize: bool


def configured_pooling(variables: Mapping[str, str]) -> Pooling | None:
    """Read the variable by which text-embeddings-inference is told; a Truss has no key for it.

    variables: `environment_variables` of the configuration.
    """
    name = variables.get("POOLING")
    if not name:
        return None
    try:
        return Pooling(name.replace("-", "_"))
    except ValueError:
        raise ConfigError(
            f"`environment_variables.POOLING` is `{name}`; one of {', '.join(Pooling)} is wanted"
        ) from None


def read_recipe(directory: Path, *, pooling: Pooling | None = None) -> Recipe:
    """Read `modules.json` and the folders it names.

    pooling: overrides the checkpoint's, and allows for a checkpoint without a recipe.
    """
    if pooling is Pooling.SPLADE:
        # It weighs the vocabulary: what a recipe does with pooled vectors does not apply.
        return Recipe((pooling,), (), normalize=False)
    path = directory / "modules.json"
    if not path.is_file():
        if pooling is not None:
            return Recipe((pooling,), (), normalize=False)
        raise CheckpointError(
            f"embedding checkpoint is missing `modules.json` (expected at `{path}`)",
            hint=_OVERRIDE_HINT,
        )
    modules = _read_modules(path)
    kinds = [kind for kind, _ in modules]
    if not _SPARSE_ONLY.isdisjoint(kinds):
        return _read_sparse_recipe(directory, modules, pooling)
    _check_order(kinds)
    return Recipe(
        pooling=_find_pooling(directory, modules) if pooling is None else (pooling,),
        dense=tuple(_read_dense(directory, folder) for kind, folder in modules if kind == "Dense"),
        normalize=any(kind == "Normalize" for kind, _ in modules),
    )


def _find_pooling(directory: Path, modules: list[tuple[str, str]]) -> tuple[Pooling, ...]:
    folder = next((folder for kind, folder in modules if kind == "Pooling"), None)
    if folder is None:
        raise CheckpointError("`modules.json` names no Pooling module", hint=_OVERRIDE_HINT)
    return _read_pooling(directory, folder)


def _read_modules(path: Path) -> list[tuple[str, str]]:
    """Return each module's class name and folder, in order; without Dropout."""
    entries = read_json(path)
    is_list = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not is_list or not entries:
        raise CheckpointError(f"`{path}` is not a list of modules")
    modules = []
    for entry in entries:
        kind, folder = entry.get("type"), entry.get("path", "")
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise CheckpointError(f"`{path}` has a module without `type` or with an odd `path`")
        if folder.startswith("/") or ".." in Path(folder).parts:
            raise CheckpointError(f"`{path}` names `{folder}`, which lies outside the checkpoint")
        name = kind.rsplit(".", 1)[-1]
        known = {*_MODULE_ORDER, *_SPARSE_ONLY, "Dropout"}
        is_known = kind.startswith(_MODULE_PREFIX) and name in known
        if not is_known and kind != _JINA_TRANSFORMER:
            raise UnsupportedModelError(
                f"`modules.json` uses the module `{kind}`, which cannot be compiled",
                hint="supported are Transformer, Pooling, Dense, Dropout and Normalize of "
                "sentence-transformers, and MLMTransformer with SpladePooling",
            )
        # Dropout does nothing outside training.
        if name != "Dropout":
            modules.append((name, folder))
    return modules


def _read_sparse_recipe(
    directory: Path, modules: list[tuple[str, str]], pooling: Pooling | None
) -> Recipe:
    """Read the recipe of a SparseEncoder: vocabulary weights, the maximum over the tokens."""
    kinds = [kind for kind, _ in modules]
    if len(kinds) != len(_SPARSE_MODULES) or any(
        kind not in wanted for kind, wanted in zip(kinds, _SPARSE_MODULES, strict=True)
    ):
        raise UnsupportedModelError(
            f"`modules.json` chains {', '.join(kinds)}; compiled for sparse embeddings is one "
            "MLMTransformer, then one SpladePooling"
        )
    if pooling is None:
        _check_splade_pooling(directory, modules[1][1])
    return Recipe((pooling or Pooling.SPLADE,), (), normalize=False)


def _check_splade_pooling(directory: Path, folder: str) -> None:
    name = f"{folder}/config.json"
    if not is_file(directory / name):
        raise CheckpointError(
            f"sparse embedding checkpoint is missing `{name}` (expected at `{directory / name}`)",
            hint="pass `--pooling splade` if the model was trained with max pooling and ReLU",
        )
    config = CheckpointFile.read(directory, name)
    for key, supported in (("pooling_strategy", "max"), ("activation_function", "relu")):
        found = config.get(key, str, supported)
        if found != supported:
            raise UnsupportedModelError(
                f"`{name}` has `{key}: {found}`; supported is `{supported}`: the maximum over the "
                "tokens of log(1 + ReLU)",
                hint="choose a SPLADE model of version 2 or later",
            )


def _check_order(kinds: list[str]) -> None:
    ranks = [_MODULE_ORDER.index(kind) for kind in kinds]
    is_known = ranks == sorted(ranks) and kinds.count("Transformer") == 1
    if not is_known or kinds.count("Pooling") > 1:
        raise UnsupportedModelError(
            f"`modules.json` chains {', '.join(kinds) or 'nothing'}; compiled is one Transformer, "
            "one Pooling, then any Dense, then Normalize"
        )


def _read_pooling(directory: Path, folder: str) -> tuple[Pooling, ...]:
    name = f"{folder}/config.json"
    if not is_file(directory / name):
        raise CheckpointError(
            f"embedding checkpoint is missing `{name}` (expected at `{directory / name}`)",
            hint=_OVERRIDE_HINT,
        )
    config = CheckpointFile.read(directory, name)
    if config.values.get("include_prompt") is False:
        raise UnsupportedModelError(
            f"`{name}` leaves prompt tokens out of pooling (`include_prompt: false`)",
            hint="choose a model that pools over its prompts",
        )
    modes = _pooling_modes(config)
    unknown = [mode for mode in modes if mode not in _POOLING_BY_NAME]
    if unknown or not modes:
        raise UnsupportedModelError(
            f"`{name}` asks for pooling {' + '.join(unknown) or 'of no kind'}; known are "
            f"{', '.join(_POOLING_BY_NAME)}",
            hint=_OVERRIDE_HINT,
        )
    return tuple(_POOLING_BY_NAME[mode] for mode in modes)


def _pooling_modes(config: CheckpointFile) -> list[str]:
    mode = config.values.get("pooling_mode")
    if isinstance(mode, str):
        return [mode]
    if isinstance(mode, list):
        return [str(name) for name in mode]
    # A flag that is not of ours is of a newer sentence-transformers, or misspelt.
    flags = [flag for flag in config.values if flag.startswith("pooling_mode_")]
    strange = [flag for flag in flags if flag not in _MODE_BY_FLAG and config.values[flag]]
    modes = [name for flag, name in _MODE_BY_FLAG.items() if config.get(flag, bool, False)]
    # sentence-transformers takes the mean where every flag is false.
    return [*modes, *strange] or ["mean"] * bool(flags)


def _read_dense(directory: Path, folder: str) -> DenseModule:
    config = CheckpointFile.read(directory, f"{folder}/config.json")
    source = config.get("module_input_name", str, "sentence_embedding")
    target = config.get("module_output_name", str, source)
    if config.get("use_residual", bool, False) or {source, target} != {"sentence_embedding"}:
        raise UnsupportedModelError(
            f"`{folder}/config.json` adds its input to its output, or works on something else than "
            "the pooled vector"
        )
    if not (directory / folder / "model.safetensors").is_file():
        raise CheckpointError(
            f"the checkpoint has no `{folder}/model.safetensors`",
            hint="only safetensors are loaded; save the model again with sentence-transformers",
        )
    function = config.get("activation_function", str, "torch.nn.modules.activation.Tanh")
    name = function.rsplit(".", 1)[-1]
    if not function.startswith("torch.nn.") or name not in set(Activation):
        raise UnsupportedModelError(
            f"`{folder}/config.json` uses the activation `{function}`; supported are "
            f"{', '.join(Activation)} of `torch.nn`"
        )
    return DenseModule(
        path=folder,
        in_features=config.require_count("in_features"),
        out_features=config.require_count("out_features"),
        bias=config.get("bias", bool, True),
        activation=Activation(name),
    )
