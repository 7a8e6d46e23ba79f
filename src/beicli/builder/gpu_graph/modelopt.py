"""Products that a checkpoint of the Model Optimizer has quantised already, used as they are.

Its weights were loaded as float32 values that lie exactly on what its scales can express, so with
these scales they become the checkpoint's own codes again.
"""

import ast
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from beicli.builder.gpu_graph.linears import Linear, weight_of
from beicli.builder.gpu_graph.number_formats import (
    BLOCK_SIZE,
    FP4_MAX,
    FP8_MAX,
    Float32,
    Fp4Weight,
    Fp8Weight,
    to_fp4,
    to_fp8,
)
from beicli.builder.gpu_graph.quantize import QuantizedLinear
from beicli.modeling import modelopt

# Where the exporter writes the modules that a node stems from, outermost first.
_SCOPES = "pkg.torch.onnx.name_scopes"


def checkpoint_linears(
    model: ir.Model, linears: Iterable[Linear], quantization: modelopt.ModelOptQuantization
) -> dict[str, QuantizedLinear]:
    """Return what `quantize` is to do, by the name of the product.

    model: prepared, in float32. linears: its products. One whose activations have no scale in the
    checkpoint is left out: it is computed in 16 bit, with the values of its weights.
    """
    nodes = {node.name: node for node in model.graph}
    found = {}
    for linear in linears:
        stored = quantization.find(_module_of(nodes[linear.name]))
        if stored is not None and stored.input_scale is not None:
            weight = weight_of(model, linear)
            found[linear.name] = (
                _in_fp8(linear, weight, stored)
                if stored.block_scales is None
                else _in_fp4(linear, weight, stored)
            )
    return found


def _module_of(node: ir.Node) -> str:
    """Return the name of the module, but for what the network is wrapped in."""
    scopes: list[str] = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    # The last is the operator, and the first the whole.
    module = scopes[-2] if len(scopes) > 1 else ""
    return module.partition(".")[2]


def _in_fp8(linear: Linear, weight: Float32, stored: modelopt.QuantizedLinear) -> QuantizedLinear:
    assert stored.input_scale is not None, "products without one are left out"
    scale = np.full(linear.out_features, stored.weight_scale, dtype=np.float32)
    return QuantizedLinear(
        linear=linear,
        precision="fp8",
        amax=stored.input_scale * FP8_MAX,
        weight=Fp8Weight(codes=to_fp8(weight / scale), scale=scale),
    )


def _in_fp4(linear: Linear, weight: Float32, stored: modelopt.QuantizedLinear) -> QuantizedLinear:
    assert stored.input_scale is not None, "products without one are left out"
    assert stored.block_scales is not None, "a weight in FP4 has blocks"
    block_scale = to_fp8(stored.block_scales.float().numpy().T)
    scale = np.repeat(
        block_scale.astype(np.float32) * np.float32(stored.weight_scale), BLOCK_SIZE, axis=0
    )
    # Where the scale of a block is 0, so are its weights.
    codes = to_fp4(np.divide(weight, scale, out=np.zeros_like(weight), where=scale != 0))
    return QuantizedLinear(
        linear=linear,
        precision="fp4",
        amax=stored.input_scale * FP8_MAX * FP4_MAX,
        weight=Fp4Weight(codes=codes, block_scale=block_scale, global_scale=stored.weight_scale),
    )


def quantized_fraction(linears: Mapping[str, QuantizedLinear], products: Iterable[Linear]) -> float:
    """Return the share of the multiplications of all products that are quantised."""
    total = sum(product.num_weights for product in products)
    return sum(each.linear.num_weights for each in linears.values()) / total if total else 0.0
