"""What a GPU does to the inputs of linear layers in FP8 or NVFP4, as arithmetic.

The values of the weights alone would tell half of it: their inputs are rounded too, with the scale
that was recorded, in blocks of 16 each with a scale of what it holds where that is in 4 bit.
"""

from functools import partial
from pathlib import Path

import torch

from beicli.model.modelopt import FP4_MAX, GROUP_SIZE, ModelOptAlgorithm
from beicli.modeling.modelopt import read_quantization
from beicli.modeling.modelopt_writer import linear_layers, to_fp4, to_fp8


def emulate_activations(model: torch.nn.Module, directory: Path) -> None:
    """Let the quantised layers of a model round what they are given; directory: its checkpoint."""
    quantization = read_quantization(directory)
    assert quantization is not None, "it says that it is quantised"
    for name, layer in linear_layers(model, directory).items():
        linear = quantization.linears.get(name)
        if linear is not None and linear.input_scale is not None:
            hook = partial(_round, quantization.algorithm, linear.input_scale)
            layer.register_forward_pre_hook(hook)


def _round(
    algorithm: ModelOptAlgorithm,
    scale: float,
    _layer: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, ...]:
    given, *others = arguments
    values = given.to(torch.float32)
    if algorithm == "FP8":
        rounded = to_fp8(values / scale).to(torch.float32) * scale
    else:
        blocks = values.unflatten(-1, (-1, GROUP_SIZE))
        block_scales = to_fp8(blocks.abs().amax(dim=-1, keepdim=True) / FP4_MAX / scale)
        divisor = block_scales.to(torch.float32) * scale
        codes = to_fp4(torch.where(divisor == 0, 0.0, blocks / divisor))
        rounded = (codes * divisor).flatten(start_dim=-2)
    return (rounded.to(given.dtype), *others)
