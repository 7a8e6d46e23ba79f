"""The products of a graph that may be quantised: activations of tokens with a stored weight."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from beicli.builder.gpu_graph.number_formats import Float32

# Of a matrix of tokens: batch, length and features.
RANK_OF_TOKENS = 3
_MATRIX_RANK = 2
# What passes numbers on, or changes them one by one: the walk from a product to attention and back
# goes through these.
_PASSES = frozenset(
    {"Add", "Mul", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Split", "Concat"}
    | {"Expand", "Identity", "Cast", "Gather", "RotaryEmbedding", "RMSNormalization"}
    | {"LayerNormalization", "Div", "Sub", "Neg", "Where"}
    | {"Pow", "ReduceMean", "Sqrt", "Reciprocal"}
)
# Attention in parts, as some models have it, ends and begins with products of two activations.
_ATTENTION = frozenset({"Attention", "MatMul", "Softmax"})


@dataclass(frozen=True, slots=True)
class Linear:
    """One product.

    name: of the node. activation, weight: names of values; the weight is [in_features,
    out_features]. is_mlp: whether it belongs to a feed-forward block, not to attention.
    """

    name: str
    activation: str
    weight: str
    in_features: int
    out_features: int
    is_mlp: bool

    @property
    def num_weights(self) -> int:
        """Numbers in the weight, and so multiplications for each token."""
        return self.in_features * self.out_features


def find_linears(model: ir.Model) -> tuple[Linear, ...]:
    """Return the products of tokens with weights, in the order of computation.

    What is computed after pooling is not among them, nor is what the graph gives out itself, which
    is a head.
    """
    graph = model.graph
    outputs = set(graph.outputs)
    found = []
    for node in graph:
        if not _is_product(graph, node) or _reaches(node.outputs[0], outputs):
            continue
        activation, weight = node.inputs
        assert activation is not None and activation.name is not None  # noqa: PT018 - one thing
        assert weight is not None and weight.name is not None and weight.shape is not None  # noqa: PT018
        assert node.name, "`prepare` gives every node a name"
        in_features, out_features = weight.shape.numpy()
        found.append(
            Linear(
                name=node.name,
                activation=activation.name,
                weight=weight.name,
                in_features=in_features,
                out_features=out_features,
                is_mlp=not _is_of_attention(graph, node),
            )
        )
    return tuple(found)


def _is_product(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type != "MatMul":
        return False
    activation, weight = node.inputs
    if activation is None or weight is None or weight.name not in graph.initializers:
        return False
    is_matrix = weight.shape is not None and len(weight.shape) == _MATRIX_RANK
    is_of_tokens = activation.shape is None or len(activation.shape) >= RANK_OF_TOKENS
    return is_matrix and is_of_tokens


def _is_of_attention(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether it feeds attention, or takes what attention gives."""
    return any(_is_attention(graph, each) for each in _next(node.outputs[0])) or any(
        _is_attention(graph, each) for each in _previous(node.inputs[0])
    )


def _is_attention(graph: ir.Graph, node: ir.Node) -> bool:
    return node.op_type in _ATTENTION and not _is_product(graph, node)


def _next(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the first nodes behind a value that do not just pass it on."""
    seen: set[ir.Node] = set()
    waiting = [user.node for user in value.uses()]
    sums: set[ir.Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        if _is_residual_add(node) and not _is_made_of(node, seen):
            # If it is met again, from its other input, it may be a rotation in parts.
            sums.add(node)
            continue
        seen.add(node)
        if node.op_type in _PASSES:
            waiting += [use.node for output in node.outputs for use in output.uses()]
        else:
            yield node
    yield from sums - seen


def _is_made_of(node: ir.Node, seen: set[ir.Node]) -> bool:
    return all(each is not None and each.producer() in seen for each in node.inputs)


def _previous(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the last nodes before a value that do not just pass it on."""
    seen: set[ir.Node] = set()
    waiting = [] if value is None else [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type not in _PASSES or _is_residual_add(node):
            yield node
        else:
            waiting += [each.producer() for each in node.inputs[:1] if each is not None]


def _is_residual_add(node: ir.Node) -> bool:
    """Whether it adds two activations: there one block ends and the next begins."""
    return node.op_type == "Add" and all(
        each is not None and each.producer() is not None for each in node.inputs
    )


def _reaches(value: ir.Value, outputs: set[ir.Value]) -> bool:
    """Whether a value is given out but for a bias, a cast and the like."""
    if value in outputs:
        return True
    users = [use.node for use in value.uses()]
    return (
        len(users) == 1
        and users[0].op_type in {"Add", "Cast", "Identity"}
        and not (_is_residual_add(users[0]))
        and _reaches(users[0].outputs[0], outputs)
    )


def weight_of(model: ir.Model, linear: Linear) -> Float32:
    """Return the numbers of a product's weight, [in_features, out_features]."""
    stored = model.graph.initializers[linear.weight].const_value
    assert stored is not None, "a weight is a constant"
    values: Float32 = stored.numpy().astype(np.float32, copy=False)
    return values
