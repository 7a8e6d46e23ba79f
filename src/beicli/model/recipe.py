"""The sentence-transformers recipe of a checkpoint: what comes after the encoder."""

from dataclasses import dataclass
from pathlib import Path

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.files import CheckpointFile, read_json
from beicli.model.spec import Activation, DenseModule, Pooling

# As `1_Pooling/config.json` has named the modes: flags until version 5, one key since.
_POOLING_BY_NAME = {
    "cls": Pooling.CLS,
    "mean": Pooling.MEAN,
    "lasttoken": Pooling.LAST_TOKEN,
}
_MODE_BY_FLAG = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
# The order they are compiled in; another order, or a second pooling, would mean something else.
_MODULE_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
# sentence-transformers' own classes; a checkpoint may also bring classes of its own.
_MODULE_PREFIX = "sentence_transformers."
_OVERRIDE_HINT = "pass `--pooling cls|mean|last_token` if you know how the model was trained"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Pooling, then Dense modules in order, then unit length or not."""

    pooling: Pooling
    dense: tuple[DenseModule, ...]
    normalize: bool


def read_recipe(directory: Path, *, pooling: Pooling | None = None) -> Recipe:
    """Read `modules.json` and the folders it names.

    pooling: overrides the checkpoint's, and allows for a checkpoint without a recipe.
    """
    path = directory / "modules.json"
    if not path.is_file():
        if pooling is not None:
            return Recipe(pooling, (), normalize=False)
        raise CheckpointError(
            f"embedding checkpoint is missing `modules.json` (expected at `{path}`)",
            hint=_OVERRIDE_HINT,
        )
    modules = _read_modules(path)
    _check_order([kind for kind, _ in modules])
    if pooling is None:
        pooling_folder = next((folder for kind, folder in modules if kind == "Pooling"), None)
        if pooling_folder is None:
            raise CheckpointError("`modules.json` names no Pooling module", hint=_OVERRIDE_HINT)
        pooling = _read_pooling(directory, pooling_folder)
    return Recipe(
        pooling=pooling,
        dense=tuple(_read_dense(directory, folder) for kind, folder in modules if kind == "Dense"),
        normalize=any(kind == "Normalize" for kind, _ in modules),
    )


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
        is_ours = kind.startswith(_MODULE_PREFIX) and name in {*_MODULE_ORDER, "Dropout"}
        if not is_ours:
            raise UnsupportedModelError(
                f"`modules.json` uses the module `{kind}`, which cannot be compiled",
                hint="supported are Transformer, Pooling, Dense, Dropout and Normalize of "
                "sentence-transformers",
            )
        # Dropout does nothing outside training.
        if name != "Dropout":
            modules.append((name, folder))
    return modules


def _check_order(kinds: list[str]) -> None:
    ranks = [_MODULE_ORDER.index(kind) for kind in kinds]
    is_known = ranks == sorted(ranks) and kinds.count("Transformer") == 1
    if not is_known or kinds.count("Pooling") > 1:
        raise UnsupportedModelError(
            f"`modules.json` chains {', '.join(kinds) or 'nothing'}; compiled is one Transformer, "
            "one Pooling, then any Dense, then Normalize"
        )


def _read_pooling(directory: Path, folder: str) -> Pooling:
    name = f"{folder}/config.json"
    if not (directory / name).is_file():
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
    if len(modes) != 1 or modes[0] not in _POOLING_BY_NAME:
        raise UnsupportedModelError(
            f"`{name}` asks for pooling {' + '.join(modes) or 'of no kind'}; supported is one of "
            f"{', '.join(_POOLING_BY_NAME)}",
            hint=_OVERRIDE_HINT,
        )
    return _POOLING_BY_NAME[modes[0]]


def _pooling_modes(config: CheckpointFile) -> list[str]:
    mode = config.values.get("pooling_mode")
    if isinstance(mode, str):
        return [mode]
    if isinstance(mode, list):
        return [str(name) for name in mode]
    return [name for flag, name in _MODE_BY_FLAG.items() if config.get(flag, bool, False)]


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
