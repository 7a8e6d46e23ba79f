"""Keeps attention from rows that see nothing.

A query whose window holds nothing but padding has every key hidden. By ONNX it gets 0, in OpenVINO
too; what TensorRT gives is not said. Kernels of its kind are known to give the mean of what is
hidden, or NaN; and a NaN in a place of padding is in every token after the next layer, since 0
times NaN is NaN. So such a query sees everything: nothing that counts looks at what comes of it.
"""

import numpy as np
import onnx_ir as ir

from beicli.builder.gpu_graph.constants import add_constant

_MASK = 3


def guard_masks(graph: ir.Graph) -> None:
    """Change every bool mask of attention in place, once however many layers share it."""
    guarded: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        mask = node.inputs[_MASK] if _has_mask(node) else None
        if mask is None or mask.dtype != ir.DataType.BOOL:
            continue
        if mask not in guarded:
            guarded[mask] = _guard(graph, node, mask)
        node.replace_input_with(_MASK, guarded[mask])


def drop_guards(graph: ir.Graph) -> None:
    """Take out what turns the softmax of a row that is masked throughout to 0.

    Attention in parts has it: `Where(IsNaN(x), 0, x)`. No mask here is infinite, so nothing is NaN;
    and tensorrt-rtx takes such a thing for attention, and fails.
    """
    guards = [node for node in graph if _is_guard(node)]
    for node in guards:
        kept = node.inputs[2]
        assert kept is not None, "it has three inputs"
        ir.convenience.replace_all_uses_with(node.outputs[0], kept)
        graph.remove(node, safe=True)
    if guards:
        for name, value in graph.initializers.items():
            _make_finite(name, value)


def _is_guard(node: ir.Node) -> bool:
    if node.op_type != "Where" or node.outputs[0].is_graph_output():
        return False
    condition, _, otherwise = node.inputs
    asked = None if condition is None else condition.producer()
    guarded = None if otherwise is None else otherwise.producer()
    return (
        asked is not None
        and asked.op_type == "IsNaN"
        and asked.inputs[0] is otherwise
        and guarded is not None
        and guarded.op_type == "Softmax"
    )


def _make_finite(name: str, value: ir.Value) -> None:
    """Hide by a number, as masks of the exporter do, what is hidden by minus infinity."""
    stored = value.const_value
    if stored is None or stored.dtype != ir.DataType.FLOAT or stored.size > 1:
        return
    number = stored.numpy()
    if np.isneginf(number).all():
        lowest = np.full_like(number, np.finfo(np.float32).min)
        value.const_value = ir.tensor(lowest, name=name)


def _has_mask(node: ir.Node) -> bool:
    return node.op_type == "Attention" and len(node.inputs) > _MASK


def _guard(graph: ir.Graph, user: ir.Node, mask: ir.Value) -> ir.Value:
    """Return `mask`, or true in rows without any; made before `user`."""
    last_axis = _last_axis(graph)
    # Reduced as numbers: not every runtime reduces bools.
    numbers = ir.node("Cast", [mask], attributes={"to": int(ir.DataType.INT32)})
    seen = ir.node("ReduceMax", [numbers.outputs[0], last_axis], attributes={"keepdims": 1})
    sees_some = ir.node("Cast", [seen.outputs[0]], attributes={"to": int(ir.DataType.BOOL)})
    sees_none = ir.node("Not", [sees_some.outputs[0]])
    guarded = ir.node("Or", [mask, sees_none.outputs[0]])
    guarded.outputs[0].shape = mask.shape
    made = (
        (numbers, "numbers", ir.DataType.INT32),
        (seen, "seen", ir.DataType.INT32),
        (sees_some, "sees_some", ir.DataType.BOOL),
        (sees_none, "sees_none", ir.DataType.BOOL),
        (guarded, "guarded", ir.DataType.BOOL),
    )
    for node, name, dtype in made:
        node.name = node.outputs[0].name = f"{mask.name}/{name}"
        node.outputs[0].dtype = dtype
        graph.insert_before(user, node)
    return guarded.outputs[0]


def _last_axis(graph: ir.Graph) -> ir.Value:
    axis = np.array([-1], dtype=np.int64)
    return add_constant(graph, ir.tensor(axis, name="guard/last_axis"))
