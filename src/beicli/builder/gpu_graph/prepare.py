"""What TensorRT's parser wants otherwise than the exporter writes it."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    LiftConstantsToInitializersPass,
    NameFixPass,
    ShapeInferencePass,
)

from beicli.builder.gpu_graph.constants import add_constant
from beicli.builder.gpu_graph.guards import drop_guards, guard_masks
from beicli.modeling.quiet import quiet

# The first with FP4, and that of the exporter.
OPSET = 23
# Cosines and sines of `RotaryEmbedding`, behind what is rotated.
_CACHES = (1, 2)
_CACHE_RANK = 3


def load_prepared(exported: Path) -> ir.Model:
    """Read an exported graph and prepare it."""
    model = ir.load(exported)
    prepare(model)
    return model


def prepare(model: ir.Model) -> None:
    """Rewrite an exported graph in place; what it computes stays the same."""
    _modernize(model)
    # Every layer has angles of its own, and all are alike.
    CommonSubexpressionEliminationPass()(model)
    _transpose_weights(model.graph)
    drop_guards(model.graph)
    guard_masks(model.graph)
    _give_caches_a_batch(model.graph)


def _modernize(model: ir.Model) -> None:
    """Bring the graph of a checkpoint that is an ONNX model to what the exporter writes."""
    if (model.opset_imports.get("") or OPSET) < OPSET:
        from onnxscript import version_converter  # noqa: PLC0415 - a second, for few

        # It says which of its two ways it takes.
        logging.getLogger(version_converter.__name__).setLevel(logging.ERROR)
        with quiet():
            version_converter.convert_version(model, OPSET, fallback=True)
    # Products are told apart by the names of their nodes, which an ONNX model need not have.
    NameFixPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if any(output.dtype is None for node in model.graph for output in node.outputs):
        ShapeInferencePass()(model)


def _transpose_weights(graph: ir.Graph) -> None:
    """Store weights as products take them: the exporter transposes only small ones itself."""
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in graph.initializers or len(weight.uses()) > 1:
            continue
        stored = weight.const_value
        assert stored is not None, "a constant has a value"
        axes = node.attributes.get_ints("perm")
        shape = stored.shape.numpy()
        tensor = ir.LazyTensor(
            functools.partial(_transposed, stored, axes),
            dtype=stored.dtype,
            shape=ir.Shape([shape[axis] for axis in axes]),
            name=f"{weight.name}/transposed",
        )
        ir.convenience.replace_all_uses_with(node.outputs[0], add_constant(graph, tensor))
        graph.remove(node, safe=True)
        assert weight.name is not None, "every value of a graph has a name"
        del graph.initializers[weight.name]


def _transposed(stored: ir.TensorProtocol, axes: Sequence[int]) -> ir.TensorProtocol:
    return ir.tensor(np.ascontiguousarray(stored.numpy().transpose(axes)), dtype=stored.dtype)


def _give_caches_a_batch(graph: ir.Graph) -> None:
    """Repeat cosines and sines, [1, length, features], for each sequence: it takes no other."""
    rotations = [node for node in graph if node.op_type == "RotaryEmbedding"]
    if not rotations:
        return
    shape = _batch_shape(graph, rotations[0])
    repeated: dict[ir.Value, ir.Value] = {}
    for node in rotations:
        for number in _CACHES:
            cache = node.inputs[number]
            assert cache is not None, "the exporter gives both"
            if cache.shape is not None and len(cache.shape) != _CACHE_RANK:
                continue
            if cache not in repeated:
                expand = ir.node("Expand", [cache, shape])
                expand.outputs[0].name = f"{cache.name}/repeated"
                expand.outputs[0].dtype = ir.DataType.FLOAT
                graph.insert_before(node, expand)
                repeated[cache] = expand.outputs[0]
            node.replace_input_with(number, repeated[cache])


def _batch_shape(graph: ir.Graph, user: ir.Node) -> ir.Value:
    """Return [batch, 1, 1], as a value that `user` and what follows may take."""
    batch = ir.node("Shape", [graph.inputs[0]], attributes={"start": 0, "end": 1})
    ones = add_constant(graph, ir.tensor(np.ones(2, dtype=np.int64), name="rotary/ones"))
    shape = ir.node("Concat", [batch.outputs[0], ones], attributes={"axis": 0})
    for node, name in ((batch, "rotary/batch"), (shape, "rotary/shape")):
        node.outputs[0].name = name
        node.outputs[0].dtype = ir.DataType.INT64
        graph.insert_before(user, node)
    return shape.outputs[0]
