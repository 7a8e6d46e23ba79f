"""Small graphs made by hand, and how OpenVINO computes a graph in float32."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from beicli.openvino_api import ov

Array = NDArray[Any]


def tokens(name: str, features: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    """A value of [batch, length, features]."""
    return ir.Value(
        name=name, shape=ir.Shape(["batch", "length", features]), type=ir.TensorType(dtype)
    )


def constant(name: str, values: Array) -> ir.Value:
    return ir.Value(
        name=name,
        shape=ir.Shape(values.shape),
        type=ir.TensorType(ir.DataType.from_numpy(values.dtype)),
        const_value=ir.tensor(values, name=name),
    )


def node(
    op_type: str, inputs: Sequence[ir.Value | None], output: ir.Value, **attributes: Any
) -> ir.Node:
    assert output.name is not None
    return ir.node(op_type, inputs, attributes=attributes, outputs=[output], name=output.name)


def model(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], *constants: ir.Value) -> ir.Model:
    """A model that gives out what its last node makes."""
    graph = ir.Graph(
        inputs,
        nodes[-1].outputs,
        nodes=nodes,
        initializers=constants,
        opset_imports={"": 23},
        name="graph",
    )
    return ir.Model(graph, ir_version=11)


def compute(made: ir.Model, directory: Path, inputs: Mapping[str, Array]) -> Array:
    """Return the first output of a float32 graph."""
    path = directory / "computed.onnx"
    ir.save(made, path)
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: Array = compiled(dict(inputs))[0].copy()
    return found


def cosines(a: Array, b: Array) -> Array:
    """Cosines of rows, [num_rows, features]."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    product = (wide_a * wide_b).sum(axis=-1)
    found: Array = product / np.linalg.norm(wide_a, axis=-1) / np.linalg.norm(wide_b, axis=-1)
    return found


WIDTH, HIDDEN, VOCABULARY = 32, 64, 100
# The products of `encoder` for tokens: of attention, and of the feed-forward block.
OF_ATTENTION = ("query", "key", "value", "attended")
OF_MLP = ("up", "down")


def encoder(seed: int = 0) -> ir.Model:
    """Embeddings, a layer of attention and a feed-forward block, a mean over tokens, and a head."""
    generator = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> ir.Value:
        values = generator.normal(size=shape) / np.sqrt(shape[0])
        return constant(f"{name}_weight", values.astype(np.float32))

    sizes = dict.fromkeys((*OF_ATTENTION, "head"), (WIDTH, WIDTH))
    sizes |= {"up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    weights = {name: weight(name, *size) for name, size in sizes.items()}
    gain, axis = constant("gain", np.ones(WIDTH, dtype=np.float32)), constant("axis", np.array([1]))
    table = constant("table", generator.normal(size=(VOCABULARY, WIDTH)).astype(np.float32))
    ids = ir.Value(
        name="ids", shape=ir.Shape(["batch", "length"]), type=ir.TensorType(ir.DataType.INT32)
    )
    given = tokens("given", WIDTH)
    value = {name: tokens(name, size[1]) for name, size in sizes.items()}
    context, attended, active = (
        tokens("context", WIDTH),
        tokens("sum", WIDTH),
        tokens("gelu", HIDDEN),
    )
    normed, last = tokens("normed", WIDTH), tokens("last", WIDTH)
    mean = ir.Value(
        name="mean", shape=ir.Shape(["batch", WIDTH]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    value["head"].shape = mean.shape
    asked = [value[name] for name in ("query", "key", "value")]
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    return model(
        [ids],
        [
            node("Gather", [table, ids], given),
            *(node("MatMul", [given, weights[name]], value[name]) for name in OF_ATTENTION[:3]),
            node("Attention", asked, context, **heads),
            node("MatMul", [context, weights["attended"]], value["attended"]),
            node("Add", [value["attended"], given], attended),
            node("LayerNormalization", [attended, gain], normed),
            node("MatMul", [normed, weights["up"]], value["up"]),
            node("Gelu", [value["up"]], active),
            node("MatMul", [active, weights["down"]], value["down"]),
            node("Add", [value["down"], normed], last),
            node("ReduceMean", [last, axis], mean, keepdims=0),
            node("MatMul", [mean, weights["head"]], value["head"]),
        ],
        *(table, *weights.values(), gain, axis),
    )
