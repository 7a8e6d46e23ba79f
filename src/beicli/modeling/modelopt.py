"""Checkpoints of NVIDIA's Model Optimizer: weights in FP8 or NVFP4, read and written.

Per linear layer `X`, [out_features, in_features]:
FP8: `X.weight` E4M3; `X.weight_scale` and `X.input_scale`, one float32 each. A weight is
code * scale. NVFP4: `X.weight` two codes of E2M1 in a byte along the input features, the low half
first; `X.weight_scale` E4M3 [out_features, in_features / 16]; `X.weight_scale_2`, of those scales,
and `X.input_scale`, one float32 each. A weight is code * weight_scale * weight_scale_2.
Measured of `export_hf_checkpoint` of ModelOpt 0.47.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.modelopt import GROUP_SIZE, ModelOptAlgorithm, read_modelopt_config
from beicli.model.weights import check_weights, list_files

# Code i of E2M1 stands for the i-th of these; the upper half is the negatives.
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_WEIGHT, _SCALE, _SCALE_2, _INPUT = ".weight", ".weight_scale", ".weight_scale_2", ".input_scale"
# Of caches of keys and values, which nothing here has.
_CACHE_SCALES = (".k_scale", ".v_scale", ".k_proj.output_scale", ".v_proj.output_scale")
# AWQ multiplies activations first, which plain dequantised weights would leave out.
_PRE_SCALE = ".pre_quant_scale"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedLinear:
    """How one linear layer was quantised.

    input_scale: an activation is code * input_scale; None if it was not recorded. With NVFP4 it
        is the scale of the scales of its blocks, as is `weight_scale`.
    block_scales: of NVFP4, [out_features, in_features / 16] E4M3; else None.
    """

    weight_scale: float
    input_scale: float | None
    block_scales: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelOptQuantization:
    """How a checkpoint was quantised; linears: by the name of the module in its files.

    Weights that are loaded lie exactly on what these scales can express, so whoever quantises them
    anew with the same scales gets the checkpoint's own codes.
    """

    algorithm: ModelOptAlgorithm
    linears: Mapping[str, QuantizedLinear]

    def find(self, module: str) -> QuantizedLinear | None:
        """Return that of a module by its name within a model, or within one that holds it."""
        found = self.linears.get(module)
        if found is not None:
            return found
        # `AutoModel` leaves out what a model with a head puts before each name, or puts it there.
        close = [
            linear
            for name, linear in self.linears.items()
            if name.endswith(f".{module}") or module.endswith(f".{name}")
        ]
        return close[0] if len(close) == 1 else None


def read_quantization(directory: Path) -> ModelOptQuantization | None:
    """Return how the checkpoint was quantised; None if it was not.

    Raises UnsupportedModelError for an algorithm that is not read.
    """
    config = read_modelopt_config(directory)
    if config is None:
        return None
    linears: dict[str, QuantizedLinear] = {}
    for file in _files(directory):
        names = set(file.keys())
        for module in sorted(_quantized_modules(names)):
            is_fp4 = config.algorithm == "NVFP4"
            scale = _tensor(file, module + (_SCALE_2 if is_fp4 else _SCALE), names)
            linears[module] = QuantizedLinear(
                weight_scale=_scalar(scale, module),
                input_scale=_scalar(file.get_tensor(module + _INPUT), module)
                if module + _INPUT in names
                else None,
                block_scales=file.get_tensor(module + _SCALE) if is_fp4 else None,
            )
    return ModelOptQuantization(algorithm=config.algorithm, linears=linears)


def read_dequantized(directory: Path) -> dict[str, torch.Tensor]:
    """Return every weight of a quantised checkpoint in float32, by its name in the files.

    Raises CheckpointError if a scale is missing or of another shape, UnsupportedModelError if the
    weights cannot stand without their activations.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in _files(directory):
        names = set(file.keys())
        for name in sorted(names):
            if name.endswith(_PRE_SCALE):
                raise UnsupportedModelError(
                    f"`{name}`: activations are scaled before they are quantised (AWQ)",
                    hint="take the plain FP8 or NVFP4 checkpoint, or the one it was made from",
                )
            if name.endswith((_SCALE, _SCALE_2, _INPUT, *_CACHE_SCALES)):
                continue
            weights[name] = _in_float32(file, name, names)
    return weights


def _in_float32(file: Any, name: str, names: set[str]) -> torch.Tensor:
    stored = file.get_tensor(name)
    module = name.removesuffix(_WEIGHT)
    if stored.dtype == torch.uint8 and name.endswith(_WEIGHT):
        return dequantize_fp4(
            stored,
            _tensor(file, module + _SCALE, names),
            _scalar(_tensor(file, module + _SCALE_2, names), module),
        )
    if stored.dtype == torch.float8_e4m3fn:
        scale = _tensor(file, module + _SCALE, names)
        return stored.to(torch.float32) * _scalar(scale, module)
    # Ids of positions are whole numbers, and stay so.
    return stored.to(torch.float32) if stored.is_floating_point() else stored


def dequantize_fp4(
    packed: torch.Tensor, block_scales: torch.Tensor, global_scale: float
) -> torch.Tensor:
    """Return the float32 values of a weight in NVFP4.

    packed: [out_features, in_features / 2], uint8. block_scales: [out_features, in_features / 16].
    Raises CheckpointError if the shapes do not belong together.
    """
    num_outputs, num_inputs = packed.shape[0], 2 * packed.shape[1]
    if block_scales.shape != (num_outputs, num_inputs // GROUP_SIZE):
        raise CheckpointError(
            f"a weight of {num_outputs} x {num_inputs} numbers in NVFP4 has scales of shape "
            f"{tuple(block_scales.shape)}"
        )
    signs = torch.tensor([1.0, -1.0])
    values = torch.outer(signs, torch.tensor(FP4_VALUES)).flatten()
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(start_dim=1)
    scales = (block_scales.to(torch.float32) * global_scale).repeat_interleave(GROUP_SIZE, dim=1)
    return values[codes.to(torch.int64)] * scales


def _files(directory: Path) -> Iterator[Any]:
    """Yield the open files of the weights; raises CheckpointError if one cannot be read."""
    for name in check_weights(directory, list_files(directory)):
        try:
            with safe_open(directory / name, framework="pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"`{directory / name}` cannot be read: {error}", hint="fetch the checkpoint again"
            ) from error


def _quantized_modules(names: set[str]) -> set[str]:
    modules = {name.removesuffix(_SCALE) for name in names if name.endswith(_SCALE)}
    return {module for module in modules if module + _WEIGHT in names}


def _tensor(file: Any, name: str, names: set[str]) -> torch.Tensor:
    if name not in names:
        raise CheckpointError(
            f"the checkpoint's weights lack `{name}`", hint="fetch the checkpoint again"
        )
    return file.get_tensor(name)


def _scalar(scale: torch.Tensor, module: str) -> float:
    if scale.numel() != 1:
        raise UnsupportedModelError(
            f"`{module}` has a scale of shape {tuple(scale.shape)}; one number is read",
            hint="build from the 16 or 32 bit checkpoint it was made from",
        )
    return float(scale.item())
