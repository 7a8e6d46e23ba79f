"""Small ONNX graphs for the compiler: a perceptron of tokens, and one of attention."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_FEATURES = 64
_RNG = np.random.default_rng(0)


def write_perceptron(path: Path, dtype: int = TensorProto.FLOAT16) -> Path:
    """Write y = gelu(x W) V for x [batch, length, 64]; returns the path."""
    weights = [_weight(name, dtype) for name in ("W", "V")]
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["xW"]),
        helper.make_node("Gelu", ["xW"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "V"], ["y"]),
    ]
    return _write(path, nodes, weights, dtype)


def write_attention(path: Path, dtype: int) -> Path:
    """Write attention of three products of x [batch, 4, length, 64]; returns the path."""
    weights = [_weight(name, dtype) for name in ("Q", "K", "V")]
    nodes = [helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in ("Q", "K", "V")]
    nodes.append(helper.make_node("Attention", ["xQ", "xK", "xV"], ["y"]))
    return _write(path, nodes, weights, dtype, heads=4)


def _weight(name: str, dtype: int) -> onnx.TensorProto:
    values = 0.1 * _RNG.normal(size=(_FEATURES, _FEATURES))
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(dtype)), name)


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    dtype: int,
    heads: int | None = None,
) -> Path:
    shape = ["batch", *([] if heads is None else [heads]), "length", _FEATURES]
    ends = [helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.save(model, path)
    return path
