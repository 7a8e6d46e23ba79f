"""Constants of a graph, and casts, in the type that whoever takes them wants; each made once."""

import functools

import numpy as np
import onnx_ir as ir

# The largest numbers of the formats that have fewer than float32.
_LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: 3.3895313892515355e38}


class Converter:
    """Makes the other versions of values that a graph needs; owned by one pass over it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[str, ir.DataType], ir.Value] = {}

    def is_constant(self, value: ir.Value) -> bool:
        """Whether a value is stored in the graph."""
        return value.name in self._graph.initializers

    def typed(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        """Return `value` in another type: constants converted, others cast for `user`."""
        if value.dtype == dtype:
            return value
        assert value.name is not None, "every value of a graph has a name"
        key = (value.name, dtype)
        if key not in self._made:
            make = self._convert if self.is_constant(value) else self._cast
            self._made[key] = make(value, dtype, user)
        return self._made[key]

    def number(self, value: float) -> ir.Value:
        """Return a constant in float32."""
        return add_constant(self._graph, ir.tensor(np.float32(value), name=f"number/{value}"))

    def as_float_output(self, output: ir.Value) -> ir.Value:
        """Return a float32 output of the graph under the name that `output` has had."""
        name = output.name
        output.name = f"{name}/narrow"
        cast = ir.node("Cast", [output], attributes={"to": ir.DataType.FLOAT})
        cast.outputs[0].name = name
        cast.outputs[0].dtype = ir.DataType.FLOAT
        cast.outputs[0].shape = output.shape
        self._graph.append(cast)
        return cast.outputs[0]

    def remove_unused(self) -> None:
        """Take out constants that nothing uses any more in the type they had."""
        outputs = set(self._graph.outputs)
        for name, value in list(self._graph.initializers.items()):
            if not value.uses() and value not in outputs:
                del self._graph.initializers[name]

    def _convert(self, value: ir.Value, dtype: ir.DataType, _user: ir.Node) -> ir.Value:
        stored = value.const_value
        assert stored is not None, "a constant has a value"
        # Only when it is written: a large model's weights are never held twice.
        tensor = ir.LazyTensor(
            functools.partial(_converted, stored, dtype),
            dtype=dtype,
            shape=ir.Shape(stored.shape.numpy()),
            name=f"{value.name}/{dtype.name.lower()}",
        )
        return add_constant(self._graph, tensor)

    def _cast(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        cast = ir.node("Cast", [value], attributes={"to": dtype})
        made = cast.outputs[0]
        made.name = f"{value.name}/{dtype.name.lower()}"
        made.dtype = dtype
        made.shape = value.shape
        producer = value.producer()
        # Right behind what it casts, so that whoever else wants it, wherever, comes later.
        if producer is None:
            self._graph.insert_before(user, cast)
        else:
            self._graph.insert_after(producer, cast)
        return made


def add_constant(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """Return the constant of that tensor's name, stored in the graph now if it was not yet."""
    assert tensor.name is not None, "a constant is found by its name"
    known = graph.initializers.get(tensor.name)
    if known is not None:
        return known
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _converted(stored: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    values = np.asarray(stored.numpy())
    if dtype in _LARGEST:
        # Masks have the largest number of float32. Were it to become infinite, the softmax of a row
        # that is masked throughout would be no number at all, and so would be all that it meets.
        values = np.clip(values, -_LARGEST[dtype], _LARGEST[dtype])
    return ir.tensor(values.astype(dtype.numpy()), dtype=dtype)
