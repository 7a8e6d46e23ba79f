"""The graph of a checkpoint that is an ONNX model: the same model, with an engine's ends.

In front of it int32 ids become what it takes; behind it stands what the task makes of its output,
as in `modeling/tasks.py`. All of it is plain ONNX, of the opset the model has.
"""

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from beicli.model.spec import Activation, ModelSpec, Pooling, Task
from beicli.modeling.onnx_network import OnnxInterface, OnnxNetwork, subgraphs
from beicli.modeling.tasks import EmbeddingModule, TaskModule, graph_inputs

# Before every name of the checkpoint's, so that none is one of ours.
_PREFIX = "checkpoint/"
# Larger weights are put beside the graph: a compiler maps that file, and would read this one.
MAX_BYTES_IN_GRAPH = 64 * 2**20
# The opset from which an operator takes its axes as an input, before which they are an attribute.
_AXES_ARE_INPUT_SINCE = {"ReduceSum": 13, "ReduceMax": 18}


def write_onnx(network: OnnxNetwork, module: TaskModule, spec: ModelSpec, path: Path) -> int:
    """Write the module's graph; returns its opset.

    Weights that lie beside the checkpoint's graph lie beside this one too, linked if they can be.
    """
    interface = network.interface
    model = onnx.load(interface.path, load_external_data=False)
    graph = model.graph
    output = _output_name(interface, module, spec)
    _rename(graph, lambda name: output if name == interface.output else name and _PREFIX + name)
    front = _Nodes(interface.opset, "inputs")
    behind = _Nodes(interface.opset, "task")
    _add_inputs(front, interface, spec)
    _add_task(behind, output, module, spec)
    nodes = [*front.nodes, *graph.node, *behind.nodes]
    for field in ("node", "input", "output"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.initializer.extend([*front.constants, *behind.constants])
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, TensorProto.INT32, tensor.shape)
        for tensor in graph_inputs(spec)
    )
    graph.output.extend(_describe_output(name, spec) for name in module.output_names)
    is_large = model.ByteSize() > MAX_BYTES_IN_GRAPH
    onnx.save(model, path, save_as_external_data=is_large, location=_free_name(interface.data))
    for data in interface.data:
        _link(data, path.parent / data.name)
    return interface.opset


class _Nodes:
    """Nodes in the order they compute, each with one output, and the constants they read."""

    def __init__(self, opset: int, prefix: str) -> None:
        """prefix: of their names."""
        self._opset = opset
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output, its own if none is given."""
        name = output or f"{self._prefix}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def number(self, value: float) -> str:
        """Add a float32 number, which goes with every shape."""
        return self.constant(np.array(value, dtype=np.float32))

    def reduce(self, operator: str, values: str) -> str:
        """Reduce [batch, length, width] over the tokens, to [batch, width]."""
        if self._opset < _AXES_ARE_INPUT_SINCE[operator]:
            return self.add(operator, values, axes=[1], keepdims=0)
        return self.add(operator, values, self.constant(np.array([1])), keepdims=0)


def _output_name(interface: OnnxInterface, module: TaskModule, spec: ModelSpec) -> str:
    """Return what the model's output is called: an engine gives it as it is, but for SPLADE."""
    if spec.task is Task.SPARSE_EMBEDDING:
        return _PREFIX + interface.output
    return "token_embeddings" if spec.task is Task.EMBEDDING else module.output_names[0]


def _rename(graph: onnx.GraphProto, new_name: Callable[[str], str]) -> None:
    """Rename every value of a graph, those of graphs inside it too."""
    for node in graph.node:
        node.input[:] = map(new_name, node.input)
        node.output[:] = map(new_name, node.output)
        for subgraph in subgraphs(node):
            _rename(subgraph, new_name)
    sparse = [tensor.values for tensor in graph.sparse_initializer]
    for value in (*graph.initializer, *sparse, *graph.input, *graph.output, *graph.value_info):
        value.name = new_name(value.name)


def _add_inputs(nodes: _Nodes, interface: OnnxInterface, spec: ModelSpec) -> None:
    """Make what the model takes of what an engine is given."""
    given = {tensor.name for tensor in graph_inputs(spec)}
    for name, element_type in interface.inputs.items():
        target = _PREFIX + name
        if name in given:
            nodes.add("Cast", name, to=element_type, output=target)
        elif name == "token_type_ids":
            none = nodes.add("Mul", "input_ids", nodes.constant(np.array(0, dtype=np.int32)))
            nodes.add("Cast", none, to=element_type, output=target)
        else:
            # The mask is padded right, so the tokens before and at one are its position + 1.
            axis = nodes.constant(np.array(1))
            count = nodes.add("CumSum", "attention_mask", axis)
            first = nodes.constant(np.array(spec.position_offset - 1, dtype=np.int32))
            nodes.add("Cast", nodes.add("Add", count, first), to=element_type, output=target)


def _add_task(nodes: _Nodes, output: str, module: TaskModule, spec: ModelSpec) -> None:
    """Make what the engine gives of what the model gives."""
    if spec.task is Task.SPARSE_EMBEDDING:
        _add_splade(nodes, output)
    elif isinstance(module, EmbeddingModule):
        mask = _Mask(nodes)
        pooled = [_pool(nodes, output, mask, pooling) for pooling in module.pooling]
        vectors = pooled[0] if len(pooled) == 1 else nodes.add("Concat", *pooled, axis=-1)
        for dense, parts in zip(spec.dense_modules, module.dense, strict=True):
            vectors = _activate(nodes, _linear(nodes, vectors, parts[0]), dense.activation)
        nodes.nodes[-1].output[0] = module.output_names[0]


class _Mask:
    """The mask as numbers, [batch, length] and [batch, length, 1]."""

    def __init__(self, nodes: _Nodes) -> None:
        self.flat = nodes.add("Cast", "attention_mask", to=TensorProto.FLOAT)
        self._nodes = nodes
        self.column = self.as_column(self.flat)

    def as_column(self, values: str) -> str:
        """Turn [batch, length] into [batch, length, 1]."""
        return self._nodes.add("Reshape", values, self._nodes.constant(np.array([0, -1, 1])))

    def positions(self) -> str:
        """Count the tokens from 1, [batch, length, 1]."""
        axis = self._nodes.constant(np.array(1))
        return self.as_column(self._nodes.add("CumSum", self.flat, axis))


def _pool(nodes: _Nodes, hidden: str, mask: _Mask, pooling: Pooling) -> str:
    """Make [batch, hidden_size] of [batch, length, hidden_size]."""
    match pooling:
        case Pooling.CLS:
            return nodes.add("Gather", hidden, nodes.constant(np.array(0)), axis=1)
        case Pooling.MAX:
            lowest = nodes.number(float(np.finfo(np.float32).min))
            is_padding = nodes.add("Equal", mask.column, nodes.number(0))
            return nodes.reduce("ReduceMax", nodes.add("Where", is_padding, lowest, hidden))
        case Pooling.LAST_TOKEN:
            weights = _is_last(nodes, mask)
        case Pooling.WEIGHTED_MEAN:
            weights = nodes.add("Mul", mask.column, mask.positions())
        case _:
            weights = mask.column
    total = nodes.reduce("ReduceSum", nodes.add("Mul", hidden, weights))
    divisor = nodes.reduce("ReduceSum", weights)
    if pooling is Pooling.MEAN_SQRT_LEN:
        divisor = nodes.add("Sqrt", divisor)
    return nodes.add("Div", total, divisor)


def _is_last(nodes: _Nodes, mask: _Mask) -> str:
    """Mark the last token of each text with 1, [batch, length, 1]."""
    length = nodes.reduce("ReduceSum", mask.column)
    length = nodes.add("Reshape", length, nodes.constant(np.array([-1, 1, 1])))
    at_end = nodes.add("Equal", mask.positions(), length)
    # Every place of the padding has counted as many tokens.
    return nodes.add("Mul", nodes.add("Cast", at_end, to=TensorProto.FLOAT), mask.column)


def _linear(nodes: _Nodes, vectors: str, layer: torch.nn.Linear) -> str:
    parameters = [parameter.detach().numpy() for parameter in layer.parameters()]
    return nodes.add("Gemm", vectors, *map(nodes.constant, parameters), transB=1)


def _activate(nodes: _Nodes, values: str, activation: Activation) -> str:
    match activation:
        case Activation.IDENTITY:
            return values
        case Activation.TANH:
            return nodes.add("Tanh", values)
        case Activation.RELU:
            return nodes.add("Relu", values)
        case Activation.SIGMOID:
            return nodes.add("Sigmoid", values)
        case Activation.SILU:
            return nodes.add("Mul", values, nodes.add("Sigmoid", values))
        case Activation.GELU:
            # An operator of its own only since opset 20.
            error = nodes.add("Erf", nodes.add("Mul", values, nodes.number(0.5**0.5)))
            half = nodes.add("Mul", values, nodes.number(0.5))
            return nodes.add("Mul", half, nodes.add("Add", error, nodes.number(1)))


def _add_splade(nodes: _Nodes, logits: str) -> None:
    masked = nodes.add("Mul", logits, _Mask(nodes).column)
    positive = nodes.add("Relu", nodes.reduce("ReduceMax", masked))
    nodes.add("Log", nodes.add("Add", positive, nodes.number(1)), output="sparse_embeddings")


def _describe_output(name: str, spec: ModelSpec) -> onnx.ValueInfoProto:
    shapes: dict[str, tuple[str | int, ...]] = {
        "embeddings": ("batch", spec.embedding_dimension),
        "sparse_embeddings": ("batch", spec.embedding_dimension),
        "token_embeddings": ("batch", "length", spec.hidden_size),
        "logits": ("batch", len(spec.labels)),
        "token_logits": ("batch", "length", len(spec.labels)),
    }
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])


def _free_name(others: Collection[Path]) -> str:
    """Return a name for the weights of the graph that none of the checkpoint's own files has."""
    taken = {other.name for other in others}
    names = (f"weights{index}" for index in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


def _link(source: Path, target: Path) -> None:
    """Put a file in another place too; OpenVINO follows no symbolic link out of a folder."""
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or another user's file.
        shutil.copyfile(source, target)
