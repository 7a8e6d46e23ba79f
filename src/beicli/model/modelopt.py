"""What a checkpoint of NVIDIA's Model Optimizer says of itself: its weights are in FP8 or NVFP4.

It says so in `hf_quant_config.json`, in `quantization_config` of `config.json`, or in both.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.files import CheckpointFile, is_file, read_json

MODELOPT_NAME = "hf_quant_config.json"
MODELOPT_METHOD = "modelopt"
# Numbers along the input features that share a scale in NVFP4.
GROUP_SIZE = 16
# The largest numbers of the formats, E4M3 and E2M1.
FP8_MAX = 448.0
FP4_MAX = 6.0
# Below this nothing is divided by a scale.
SMALLEST_AMAX = 1e-12

ModelOptAlgorithm = Literal["FP8", "NVFP4"]
ALGORITHM_PRECISIONS: Mapping[ModelOptAlgorithm, Literal["fp8", "fp4"]] = {
    "FP8": "fp8",
    "NVFP4": "fp4",
}

# No checkpoint has this but the one that a build makes for its own check.
_EMULATES = "beicli_emulates_activations"
_ALGORITHMS: tuple[ModelOptAlgorithm, ...] = get_args(ModelOptAlgorithm)
_CONFIG_KEY = "quantization_config"
_HINT = "build from the 16 or 32 bit checkpoint it was made from"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptConfig:
    """How a checkpoint was quantised.

    excluded: patterns of names of modules that are not, such as `lm_head` or `*.pooler*`.
    kv_cache_algorithm: of caches of keys and values, which nothing here has; None for none.
    emulates_activations: whether what computes it is to round the inputs too, as a GPU does.
    """

    algorithm: ModelOptAlgorithm
    excluded: tuple[str, ...]
    kv_cache_algorithm: str | None
    emulates_activations: bool = False

    def excludes(self, module: str) -> bool:
        """Whether a module of that name is left as it was."""
        return any(fnmatch.fnmatchcase(module, pattern) for pattern in self.excluded)

    @property
    def note(self) -> str | None:
        """What of it is not followed, in words; None if nothing."""
        if self.kv_cache_algorithm is None:
            return None
        return (
            f"the checkpoint puts caches of keys and values into {self.kv_cache_algorithm}; "
            "engines here have none, so that has no effect"
        )


def read_modelopt_config(directory: Path) -> ModelOptConfig | None:
    """Return how the checkpoint was quantised; None if it was not, or by something else.

    Raises UnsupportedModelError for what cannot be read, CheckpointError for damaged files.
    """
    if is_file(directory / MODELOPT_NAME):
        values = read_json(directory / MODELOPT_NAME)
        quantization = values.get("quantization") if isinstance(values, dict) else None
        if not isinstance(quantization, dict):
            raise CheckpointError(f"`{directory / MODELOPT_NAME}` has no `quantization`")
        return _parse(quantization, MODELOPT_NAME)
    config = CheckpointFile.read_optional(directory, "config.json").values
    return _parse(config[_CONFIG_KEY], "config.json") if is_modelopt(config) else None


def is_modelopt(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` says that the Model Optimizer quantised the weights."""
    quantization = config.get(_CONFIG_KEY)
    return isinstance(quantization, dict) and quantization.get("quant_method") == MODELOPT_METHOD


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `config.json` that says nothing of it, for who is given plain numbers."""
    return {key: value for key, value in config.items() if key != _CONFIG_KEY}


def emulating(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `hf_quant_config.json` that asks for inputs to be rounded too."""
    return {**values, "quantization": {**values["quantization"], _EMULATES: True}}


def modelopt_values(
    algorithm: ModelOptAlgorithm, excluded: tuple[str, ...], version: str
) -> dict[str, Any]:
    """Return the content of `hf_quant_config.json`; version: of beicli, which writes it."""
    quantization: dict[str, Any] = {"quant_algo": algorithm, "kv_cache_quant_algo": None}
    if algorithm == "NVFP4":
        quantization["group_size"] = GROUP_SIZE
    quantization["exclude_modules"] = list(excluded)
    return {
        "producer": {"name": "beicli", "version": version},
        "quantization": quantization,
    }


def _parse(values: Mapping[str, Any], file: str) -> ModelOptConfig:
    named = values.get("quant_algo")
    algorithm = next((known for known in _ALGORITHMS if known == named), None)
    if algorithm is None:
        raise UnsupportedModelError(
            f"`{file}` has `quant_algo: {named}`; {' and '.join(_ALGORITHMS)} are read",
            hint=_HINT,
        )
    group_size = values.get("group_size", GROUP_SIZE)
    if algorithm == "NVFP4" and group_size not in {None, GROUP_SIZE}:
        raise UnsupportedModelError(
            f"`{file}` has `group_size: {group_size}`; NVFP4 has {GROUP_SIZE}", hint=_HINT
        )
    # The same under two names: the second is that of `config.json`.
    excluded = values.get("exclude_modules", values.get("ignore")) or []
    if not isinstance(excluded, list) or not all(isinstance(name, str) for name in excluded):
        raise CheckpointError(f"`{file}` names the modules that are not quantised as {excluded!r}")
    return ModelOptConfig(
        algorithm=algorithm,
        excluded=tuple(excluded),
        kv_cache_algorithm=_kv_cache(values),
        emulates_activations=values.get(_EMULATES) is True,
    )


def _kv_cache(values: Mapping[str, Any]) -> str | None:
    named = values.get("kv_cache_quant_algo")
    if named is not None:
        return str(named)
    scheme = values.get("kv_cache_scheme")
    if not isinstance(scheme, dict):
        return None
    return f"{scheme.get('num_bits')} bit {scheme.get('type')}"
