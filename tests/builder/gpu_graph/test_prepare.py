from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tests.builder.gpu_graph.graphs import Array, compute, constant, model, node, tokens

from beicli.builder.gpu_graph.prepare import OPSET, prepare

FLOAT = ir.DataType.FLOAT


def normal(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def turned_product() -> ir.Model:
    given, weight = tokens("given", 16), constant("weight", normal(8, 16))
    turned = ir.Value(name="turned", shape=ir.Shape([16, 8]), type=ir.TensorType(FLOAT))
    return model(
        [given],
        [
            node("Transpose", [weight], turned, perm=[1, 0]),
            node("MatMul", [given, turned], tokens("product", 8)),
        ],
        weight,
    )


def rotated(num_layers: int) -> ir.Model:
    """Layers that turn queries by angles of [1, length, 4], each with its own cosines and sines."""
    given = tokens("given", 16)
    angles = ir.Value(name="angles", shape=ir.Shape([1, "length", 4]), type=ir.TensorType(FLOAT))
    nodes, value = [], given
    for layer in range(num_layers):
        cache = [
            ir.Value(name=f"{kind}_{layer}", shape=angles.shape, type=ir.TensorType(FLOAT))
            for kind in ("cos", "sin")
        ]
        nodes += [node("Cos", [angles], cache[0]), node("Sin", [angles], cache[1])]
        turned = tokens(f"turned_{layer}", 16)
        nodes.append(node("RotaryEmbedding", [value, *cache], turned, num_heads=2))
        value = turned
    return model([given, angles], nodes)


def test_what_a_graph_computes_stays_the_same(tmp_path: Path) -> None:
    inputs = {"given": normal(2, 3, 16)}
    made = turned_product()
    wanted = compute(turned_product(), tmp_path, inputs)

    prepare(made)

    np.testing.assert_array_equal(compute(made, tmp_path, inputs), wanted)


def test_weights_are_stored_as_products_take_them() -> None:
    made = turned_product()

    prepare(made)

    assert "Transpose" not in {each.op_type for each in made.graph}
    stored = made.graph.initializers["weight/transposed"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), normal(8, 16).T)
    assert "weight" not in made.graph.initializers


@pytest.mark.parametrize("num_sequences", [1, 3])
def test_layers_share_angles_that_have_a_row_for_each_sequence(
    num_sequences: int, tmp_path: Path
) -> None:
    made = rotated(num_layers=2)
    prepare(made)
    caches = {
        value.name: value.producer()
        for each in made.graph
        if each.op_type == "RotaryEmbedding"
        for value in each.inputs[1:3]
        if value is not None
    }

    assert [each.op_type for each in caches.values() if each is not None] == ["Expand", "Expand"]
    inputs = {"given": normal(num_sequences, 5, 16), "angles": normal(1, 5, 4)}
    wanted = turn(turn(inputs["given"], inputs["angles"]), inputs["angles"])
    np.testing.assert_allclose(compute(made, tmp_path, inputs), wanted, atol=1e-5)


def turn(values: Array, angles: Array) -> Array:
    """Turn the first half of each head against the second; values: [batch, length, 2 * 8]."""
    first, second = np.split(values.reshape(*values.shape[:2], 2, 8), 2, axis=-1)
    cos, sin = np.cos(angles)[:, :, None], np.sin(angles)[:, :, None]
    found: Array = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return found.reshape(values.shape)


def old_network() -> ir.Model:
    """A norm and a mean of opset 13, with a constant of its own; what is between has no type."""
    given = tokens("given", 16)
    factor, scaled, mean = ir.Value(name="factor"), ir.Value(name="scaled"), tokens("mean", 1)
    value = ir.tensor(np.array(3, dtype=np.float32))
    made = model(
        [given],
        [
            node("Constant", [], factor, value=value),
            node("Mul", [given, factor], scaled),
            node("ReduceMean", [scaled], mean, axes=[-1], keepdims=1),
        ],
    )
    made.opset_imports[""] = 13
    return made


def test_a_graph_of_an_older_opset_becomes_one_of_this(tmp_path: Path) -> None:
    made = old_network()

    prepare(made)

    assert made.opset_imports[""] == OPSET
    inputs = {"given": normal(2, 3, 16)}
    wanted = 3 * inputs["given"].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(compute(made, tmp_path, inputs), wanted, rtol=1e-5, atol=1e-6)


def test_every_value_gets_a_type_and_constants_are_stored() -> None:
    made = old_network()

    prepare(made)

    assert [output.dtype for each in made.graph for output in each.outputs] == [FLOAT, FLOAT]
    assert "factor" in made.graph.initializers


def test_every_node_has_a_name_of_its_own() -> None:
    made = turned_product()
    for each in made.graph:
        each.name = None

    prepare(made)

    names = [each.name for each in made.graph]
    assert all(names)
    assert len(names) == len(set(names))
