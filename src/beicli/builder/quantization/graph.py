"""Finds the products of activations and weights in an OpenVINO graph, and puts them into 8 bit.

What stands before a product decides how it is computed. Weights as int8 with a scale make the CPU
plugin scale the activations itself, token by token. A `FakeQuantize` before the activations as
well, whose scale is fixed, is the order to compute in int8 throughout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from beicli.builder.quantization.scales import (
    MAX_LEVEL,
    ActivationScale,
    Float32,
    Int8,
    quantize_weight,
)
from beicli.openvino_api import ov

# Fewer features than this are a head of some labels: nothing to gain there, and all to lose.
_MIN_FEATURES = 32
# Tables of embeddings below this many numbers are not worth 8 bit.
_MIN_TABLE_SIZE = 1_000_000
_LEVELS = 2 * MAX_LEVEL + 2

# Where activations come from: the name of an operator and the number of its output.
ActivationSource = tuple[str, int]

op = ov.opset13


class Level(StrEnum):
    """How a product is computed, fastest first."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    KEPT = "kept"


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A product of activations and constant weights.

    node: the operator; source: where its activations come from.
    """

    node: ov.Node = field(repr=False)
    name: str
    source: ActivationSource
    is_transposed: bool

    def weight(self) -> Float32:
        """Return the weights, [in_features, out_features]."""
        values: Float32 = self.node.input_value(1).get_node().get_data().astype(np.float32)
        return values.T if self.is_transposed else values

    @property
    def num_weights(self) -> int:
        rows, columns = self.node.input_value(1).get_shape()
        return int(rows * columns)


@dataclass(frozen=True, slots=True, eq=False)
class StaticProduct:
    """What a product with a fixed scale needs; bias: [out_features], added to its outputs."""

    scale: ActivationScale
    bias: Float32


def find_products(model: ov.Model) -> tuple[Product, ...]:
    """Return the products with constant weights that are worth 8 bit, in the graph's order."""
    found = (_as_product(node) for node in model.get_ordered_ops())
    return tuple(product for product in found if product is not None)


def quantize_graph(
    model: ov.Model, levels: Mapping[str, Level], static: Mapping[str, StaticProduct]
) -> None:
    """Put the products of `model` into their levels, and large tables of embeddings into int8.

    levels, static: by the names of products; static has those at that level.
    """
    scaled: dict[tuple[ActivationSource, int], ov.Output] = {}
    for product in find_products(model):
        level = levels[product.name]
        if level is Level.STATIC:
            chosen = static[product.name]
            # Products of the same activations share what scales them.
            key = (product.source, id(chosen.scale))
            if key not in scaled:
                scaled[key] = _quantized_activations(product, chosen.scale)
            product.node.input(0).replace_source_output(scaled[key])
            _set_weight(product, product.weight() * chosen.scale.channel[:, None])
            _add_bias(product.node, chosen.bias)
        elif level is Level.DYNAMIC:
            _set_weight(product, product.weight())
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Gather":
            _quantize_table(node)
    model.validate_nodes_and_infer_types()


def source_output(product: Product) -> ov.Output:
    """Return the output that a product takes its activations from."""
    return product.node.input_value(0)


def products_by_source(products: Sequence[Product]) -> dict[ActivationSource, list[Product]]:
    """Group products that take the same activations."""
    groups: dict[ActivationSource, list[Product]] = {}
    for product in products:
        groups.setdefault(product.source, []).append(product)
    return groups


def _as_product(node: ov.Node) -> Product | None:
    if node.get_type_name() != "MatMul":
        return None
    weight = node.input_value(1)
    attributes = node.get_attributes()
    is_constant = weight.get_node().get_type_name() == "Constant"
    if not is_constant or attributes["transpose_a"] or not _is_matrix(weight):
        return None
    if min(weight.get_shape()) < _MIN_FEATURES:
        return None
    source = node.input_value(0)
    return Product(
        node=node,
        name=node.get_friendly_name(),
        source=(source.get_node().get_friendly_name(), source.get_index()),
        is_transposed=attributes["transpose_b"],
    )


def _is_matrix(constant: ov.Output) -> bool:
    num_rows_and_columns = 2
    return len(constant.get_shape()) == num_rows_and_columns


def _quantized_activations(product: Product, scale: ActivationScale) -> ov.Output:
    source = source_output(product)
    rank = source.get_partial_shape().rank.get_length()
    shape = (*[1] * (rank - 1), -1)

    def constant(values: Float32) -> ov.Node:
        return op.constant(values.reshape(shape))

    scaled = op.multiply(source, constant(np.float32(1) / scale.channel))
    moved = op.add(scaled, constant(-scale.shift / scale.channel))
    low = op.constant(np.float32(-scale.step * (MAX_LEVEL + 1)))
    high = op.constant(np.float32(scale.step * MAX_LEVEL))
    return op.fake_quantize(moved, low, high, low, high, _LEVELS).output(0)


def _set_weight(product: Product, weight: Float32) -> None:
    """Put int8 and a scale for each output in place of the weights."""
    quantized = quantize_weight(weight)
    levels, scale = quantized.levels, quantized.scale
    if product.is_transposed:
        levels, scale = levels.T, scale.T
    product.node.input(1).replace_source_output(_dequantized(levels, scale))


def _dequantized(levels: Int8, scale: Float32) -> ov.Output:
    stored = op.constant(np.ascontiguousarray(levels))
    factor = op.constant(np.ascontiguousarray(scale))
    return op.multiply(op.convert(stored, "f32"), factor).output(0)


def _add_bias(node: ov.Node, bias: Float32) -> None:
    """Add `bias` to what `node` gives, in the bias it has if it has one."""
    takers = list(node.output(0).get_target_inputs())
    follower = takers[0].get_node() if len(takers) == 1 else None
    if follower is not None and follower.get_type_name() == "Add":
        other = 1 - takers[0].get_index()
        there = follower.input_value(other).get_node()
        if there.get_type_name() == "Constant" and there.get_data().size == bias.size:
            values = there.get_data()
            total = (values + bias.reshape(values.shape)).astype(np.float32)
            follower.input(other).replace_source_output(op.constant(total).output(0))
            return
    added = op.add(node.output(0), op.constant(bias.astype(np.float32)))
    for taker in takers:
        taker.replace_source_output(added.output(0))


def _quantize_table(gather: ov.Node) -> None:
    """Store a large table of embeddings as int8, each row with a scale of its own."""
    table = gather.input_value(0).get_node()
    is_table = table.get_type_name() == "Constant" and _is_matrix(table.output(0))
    if not is_table or table.get_data().size < _MIN_TABLE_SIZE:
        return
    quantized = quantize_weight(table.get_data().astype(np.float32).T)
    gather.input(0).replace_source_output(_dequantized(quantized.levels.T, quantized.scale.T))
