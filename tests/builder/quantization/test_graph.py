import numpy as np
import pytest

from beicli.builder.quantization.graph import (
    Level,
    StaticProduct,
    find_products,
    products_by_source,
    quantize_graph,
)
from beicli.builder.quantization.scales import Float32, bias_of_static, choose_scale
from beicli.openvino_api import ov

op = ov.opset13
FEATURES = 64


def normal(seed: int, *shape: int) -> Float32:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def a_graph(*, has_bias: bool = True, is_transposed: bool = False) -> ov.Model:
    """Two products of the same activations, one after them, and a head of three labels."""
    x = op.parameter([-1, -1, FEATURES], np.float32, name="x")

    def linear(source: ov.Node, name: str, seed: int, width: int = FEATURES) -> ov.Node:
        weight = normal(seed, FEATURES, width) / np.float32(np.sqrt(FEATURES))
        weight = weight.T if is_transposed else weight
        node = op.matmul(source, op.constant(np.ascontiguousarray(weight)), False, is_transposed)
        node.set_friendly_name(name)
        return op.add(node, op.constant(normal(seed, width))) if has_bias else node

    joined = op.tanh(op.add(linear(x, "a", 1), linear(x, "b", 2)))
    last = linear(joined, "c", 3)
    return ov.Model([last, linear(last, "head", 4, width=3)], [x], "graph")


def run(model: ov.Model, rows: Float32) -> Float32:
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}
    compiled = ov.Core().compile_model(model, "CPU", options)
    return np.array(compiled([rows])[0])


def test_products_with_weights_are_found_but_for_small_heads() -> None:
    products = find_products(a_graph())

    assert {product.name for product in products} == {"a", "b", "c"}
    groups = products_by_source(products)
    assert sorted(sorted(each.name for each in group) for group in groups.values()) == [
        ["a", "b"],
        ["c"],
    ]


@pytest.mark.parametrize("is_transposed", [False, True])
def test_weights_come_as_in_features_by_out_features(*, is_transposed: bool) -> None:
    products = {each.name: each for each in find_products(a_graph(is_transposed=is_transposed))}

    np.testing.assert_array_equal(
        products["a"].weight(), normal(1, FEATURES, FEATURES) / np.float32(np.sqrt(FEATURES))
    )


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("level", [Level.STATIC, Level.DYNAMIC, Level.KEPT])
def test_a_quantised_graph_computes_nearly_the_same(
    level: Level, *, has_bias: bool, is_transposed: bool
) -> None:
    rows = normal(0, 4, 25, FEATURES) + 2
    wanted = run(a_graph(has_bias=has_bias, is_transposed=is_transposed), rows)
    model = a_graph(has_bias=has_bias, is_transposed=is_transposed)
    products = find_products(model)
    seen = rows.reshape(-1, FEATURES)
    inputs = {"a": seen, "b": seen}
    biases = [normal(seed, FEATURES) if has_bias else 0 for seed in (1, 2)]
    weights = {product.name: product.weight() for product in products}
    inputs["c"] = np.tanh(seen @ (weights["a"] + weights["b"]) + sum(biases))
    static = {}
    for name, x in inputs.items():
        scale = choose_scale(x, x.min(axis=0), x.max(axis=0), weights[name])
        static[name] = StaticProduct(scale, bias_of_static(x, weights[name], scale))

    quantize_graph(model, dict.fromkeys(weights, level), static)
    found = run(model, rows)

    cosine = (found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert cosine > 0.999
    if level is Level.KEPT:
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    else:
        assert np.abs(found - wanted).max() > 0


def stored_types(model: ov.Model) -> list[ov.Type]:
    """Return the types of the matrices in the graph, those of scales left out."""
    nodes = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    shapes = {node: node.get_output_shape(0) for node in nodes}
    return [
        node.get_element_type()
        for node, shape in shapes.items()
        if len(shape) == 2 and min(shape) >= FEATURES
    ]


def test_weights_in_8_bit_are_stored_in_8_bit() -> None:
    model = a_graph()

    quantize_graph(model, {"a": Level.DYNAMIC, "b": Level.KEPT, "c": Level.DYNAMIC}, {})

    assert sorted(map(str, stored_types(model))) == sorted(
        map(str, [ov.Type.f32, ov.Type.i8, ov.Type.i8])
    )


def test_a_large_table_of_embeddings_is_stored_in_8_bit_row_by_row() -> None:
    ids = op.parameter([-1], np.int32)
    table = normal(0, 20_000, FEATURES) * np.geomspace(0.1, 10, 20_000, dtype=np.float32)[:, None]
    model = ov.Model([op.gather(op.constant(table), ids, op.constant(0))], [ids], "table")

    quantize_graph(model, {}, {})

    assert stored_types(model) == [ov.Type.i8]
    some = np.array([0, 7, 19_999], np.int32)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = np.array(compiled([some])[0])
    assert np.abs(found - table[some]).max(axis=1) == pytest.approx(0, abs=0.2)
    assert (
        np.abs(found - table[some]).max(axis=1) <= 0.005 * np.abs(table[some]).max(axis=1)
    ).all()
