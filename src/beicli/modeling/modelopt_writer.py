"""Writes a checkpoint as NVIDIA's Model Optimizer would: the layout is told in `modelopt.py`.

The numbers follow from the largest absolute value of what is quantised: a weight's own, and that of
each linear layer's input on some samples. Whatever shares its input shares its scales too, since
runtimes multiply query, key and value in one product.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from beicli import __version__
from beicli.errors import BuildError
from beicli.model.modelopt import (
    FP4_MAX,
    FP8_MAX,
    GROUP_SIZE,
    MODELOPT_NAME,
    SMALLEST_AMAX,
    ModelOptAlgorithm,
    modelopt_values,
)
from beicli.model.weights import INDEX_NAME, check_weights, list_files
from beicli.modeling.modelopt import FP4_VALUES

_WEIGHT = ".weight"
# Linear layers that get the same input, by the last part of their names.
_SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("query", "key", "value"))
# Heads have no number in their names: only what is repeated is quantised.
_REPEATED = re.compile(r"(^|\.)\d+\.")
_MLP = re.compile(r"\.mlp\.|(?<!attention)\.(intermediate|output)\.dense$")
# Where E2M1 rounds up: halfway between one of its numbers and the next.
_FP4_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptPlan:
    """What of a checkpoint is quantised, by the names of modules in its files.

    input_amax: largest absolute value of the input of each linear layer that is.
    excluded: linear layers that are not.
    """

    algorithm: ModelOptAlgorithm
    input_amax: Mapping[str, float]
    excluded: tuple[str, ...]


def plan_modelopt(
    module: torch.nn.Module,
    checkpoint: Path,
    samples: Iterable[Sequence[torch.Tensor]],
    *,
    algorithm: ModelOptAlgorithm,
    is_mlp_only: bool = False,
) -> ModelOptPlan:
    """Observe the inputs of a network's linear layers, and decide which are quantised.

    module: the loaded network of `checkpoint`. samples: its arguments, one after another.
    Raises BuildError if there is nothing to quantise.
    """
    linears = linear_layers(module, checkpoint)
    chosen = {
        name: linear
        for name, linear in linears.items()
        if _REPEATED.search(name)
        and (not is_mlp_only or _MLP.search(name))
        and (algorithm == "FP8" or linear.in_features % GROUP_SIZE == 0)
    }
    if not chosen:
        raise BuildError(
            f"no linear layer of this checkpoint can be put into {algorithm}",
            hint="write `quantization_type: no_quant`",
        )
    return ModelOptPlan(
        algorithm=algorithm,
        input_amax=_observe(module, chosen, samples),
        excluded=tuple(sorted(linears.keys() - chosen.keys())),
    )


def write_modelopt_checkpoint(checkpoint: Path, plan: ModelOptPlan, directory: Path) -> None:
    """Write `config.json`, the weights as planned, and `hf_quant_config.json`.

    Raises BuildError if the plan names what the checkpoint does not hold.
    """
    files = check_weights(checkpoint, list_files(checkpoint))
    amax = _shared(dict(_weight_amax(checkpoint, files, plan)))
    missing = plan.input_amax.keys() - amax.keys()
    if missing:
        raise BuildError(f"the checkpoint has no linear layer `{min(missing)}` to quantise")
    directory.mkdir(parents=True, exist_ok=True)
    inputs = _shared(plan.input_amax)
    weight_map: dict[str, str] = {}
    for name in files:
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(checkpoint / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no dictionary
                module = key.removesuffix(_WEIGHT)
                stored = file.get_tensor(key)
                if module not in amax:
                    tensors[key] = stored
                    continue
                made = _quantized(stored.to(torch.float32), amax[module], plan.algorithm)
                tensors |= {f"{module}.{part}": tensor for part, tensor in made.items()}
                tensors[f"{module}.input_scale"] = _scale(inputs[module], plan.algorithm)
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    if len(files) > 1:
        _write_json(directory / INDEX_NAME, {"metadata": {}, "weight_map": weight_map})
    shutil.copyfile(checkpoint / "config.json", directory / "config.json")
    values = modelopt_values(plan.algorithm, plan.excluded, __version__)
    _write_json(directory / MODELOPT_NAME, values)


def _quantized(
    weight: torch.Tensor, amax: float, algorithm: ModelOptAlgorithm
) -> dict[str, torch.Tensor]:
    """Return what is stored of a weight, [out_features, in_features], by the ends of its names."""
    scale = _scale(amax, algorithm)
    if algorithm == "FP8":
        return {"weight": to_fp8(weight / scale), "weight_scale": scale}
    blocks = weight.unflatten(1, (-1, GROUP_SIZE))
    block_scales = to_fp8(blocks.abs().amax(dim=-1) / FP4_MAX / scale)
    divisor = block_scales.to(torch.float32).unsqueeze(-1) * scale
    # A block whose scale is 0 in FP8 has nothing but zeros worth keeping.
    codes = _fp4_codes(torch.where(divisor == 0, 0.0, blocks / divisor)).flatten(start_dim=1)
    return {
        "weight": codes[:, ::2] | (codes[:, 1::2] << 4),
        "weight_scale": block_scales,
        "weight_scale_2": scale,
    }


def _scale(amax: float, algorithm: ModelOptAlgorithm) -> torch.Tensor:
    largest = FP8_MAX if algorithm == "FP8" else FP8_MAX * FP4_MAX
    return torch.tensor(max(amax, SMALLEST_AMAX) / largest, dtype=torch.float32)


def to_fp8(values: torch.Tensor) -> torch.Tensor:
    """Round to the nearest E4M3; what is too large becomes the largest."""
    return values.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)


def to_fp4(values: torch.Tensor) -> torch.Tensor:
    """Round to the nearest E2M1, ties to even codes; in the format of `values`."""
    magnitudes = torch.tensor(FP4_VALUES, dtype=values.dtype)
    return torch.copysign(magnitudes[(_fp4_codes(values) & 7).to(torch.int64)], values)


def _fp4_codes(values: torch.Tensor) -> torch.Tensor:
    """Return the codes of the nearest numbers, ties to even codes, uint8."""
    magnitude = values.abs()
    codes = torch.zeros_like(values, dtype=torch.uint8)
    for code, midpoint in enumerate(_FP4_MIDPOINTS):
        codes += magnitude > midpoint if code % 2 == 0 else magnitude >= midpoint
    return codes | (torch.signbit(values).to(torch.uint8) << 3)


def linear_layers(module: torch.nn.Module, checkpoint: Path) -> dict[str, Any]:
    """Return the linear layers of a network by their names in its checkpoint.

    What is not in the checkpoint's own files, such as a Dense module, is left out.
    """
    stored = _stored_modules(checkpoint)
    found = {}
    for name, linear in module.named_modules():
        if not isinstance(linear, torch.nn.Linear):
            continue
        parts = name.split(".")
        for start in range(len(parts)):
            rest = ".".join(parts[start:])
            close = [each for each in stored if each == rest or each.endswith(f".{rest}")]
            if len(close) == 1:
                found[close[0]] = linear
                break
    return found


def _stored_modules(checkpoint: Path) -> set[str]:
    """Name the modules that have a matrix in the files."""
    found: set[str] = set()
    for name in check_weights(checkpoint, list_files(checkpoint)):
        with safe_open(checkpoint / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no dictionary
                shape = file.get_slice(key).get_shape()
                if key.endswith(_WEIGHT) and len(shape) == 2:  # noqa: PLR2004 - a matrix
                    found.add(key.removesuffix(_WEIGHT))
    return found


def _observe(
    module: torch.nn.Module,
    linears: Mapping[str, torch.nn.Module],
    samples: Iterable[Sequence[torch.Tensor]],
) -> dict[str, float]:
    amax = dict.fromkeys(linears, 0.0)

    def keep(name: str, _linear: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        amax[name] = max(amax[name], float(arguments[0].abs().max()))

    hooks = [
        linear.register_forward_pre_hook(partial(keep, name)) for name, linear in linears.items()
    ]
    try:
        with torch.inference_mode():
            for sample in samples:
                module(*sample)
    finally:
        for hook in hooks:
            hook.remove()
    return amax


def _weight_amax(
    checkpoint: Path, files: Iterable[str], plan: ModelOptPlan
) -> Iterator[tuple[str, float]]:
    for name in files:
        with safe_open(checkpoint / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no dictionary
                module = key.removesuffix(_WEIGHT)
                if key.endswith(_WEIGHT) and module in plan.input_amax:
                    yield module, float(file.get_tensor(key).abs().max())


def _shared(amax: Mapping[str, float]) -> dict[str, float]:
    """Give all that shares its input the largest value of any of them."""
    largest: dict[str, float] = defaultdict(float)
    for name, value in amax.items():
        largest[_group(name)] = max(largest[_group(name)], value)
    return {name: largest[_group(name)] for name in amax}


def _group(name: str) -> str:
    parent, _, last = name.rpartition(".")
    shared = next((group for group in _SHARED if last in group), (last,))
    return f"{parent}.{'+'.join(shared)}"


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
