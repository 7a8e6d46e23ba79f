"""Computes with a network object of TensorRT, layer by layer, on the CPU.

No plan runs without a GPU, but the network that a plan is compiled from can be read, and so can be
computed in torch. What is not known, be it a layer, a mode or an attribute, is an assertion:
nothing that TensorRT's parser makes of a graph goes by unseen.
"""

from collections.abc import Mapping
from graphlib import TopologicalSorter
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.tensorrt.layers import KINDS, Kind
from tests.tensorrt.numbers import DTYPES, is_fp4, read_constant


class NetworkInterpreter:
    """A network that is computed as often as wanted.

    network: an INetworkDefinition; whatever holds its weights must live as long as it is not read.
    """

    def __init__(self, trt: ModuleType, network: Any) -> None:
        self._network = network
        layers = [_Layer(trt, network.get_layer(number)) for number in range(network.num_layers)]
        self._layers = _in_order(layers)
        self._constants: dict[str, torch.Tensor] = {}
        for layer in self._layers:
            if layer.kind_name == "CONSTANT":
                self._constants |= _checked(layer, (read_constant(layer.typed),))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the network's outputs by name; raises AssertionError on anything unknown."""
        values = dict(self._constants)
        given = [self._network.get_input(number) for number in range(self._network.num_inputs)]
        assert {tensor.name for tensor in given} == set(inputs)
        for tensor in given:
            value = torch.from_numpy(np.array(inputs[tensor.name]))
            _check(tensor, value)
            values[tensor.name] = value
        for layer in self._layers:
            if layer.kind_name == "CONSTANT":
                continue
            computed = layer.kind.compute(layer.typed, layer.arguments(values))
            made = _checked(layer, computed)
            assert not made.keys() & values.keys(), "names of tensors are unique"
            values |= made
        outputs = [self._network.get_output(n) for n in range(self._network.num_outputs)]
        return {tensor.name: values[tensor.name].numpy() for tensor in outputs}


class _Layer:
    """A layer with its own class, whose type and attributes are all known."""

    def __init__(self, trt: ModuleType, layer: Any) -> None:
        # Read before the class is set: an activation has a `type` of its own.
        self.kind_name: str = layer.type.name
        assert self.kind_name in KINDS, f"{layer.name} is of an unknown kind, {self.kind_name}"
        self.kind: Kind = KINDS[self.kind_name]
        layer.__class__ = getattr(trt, self.kind.class_name)
        own = frozenset(dir(type(layer))) - frozenset(dir(trt.ILayer))
        assert own == self.kind.attributes, f"{self.kind_name} has attributes {sorted(own)}"
        assert layer.num_ranks == 1, "one GPU"
        self.typed = layer

        tensors = [layer.get_input(number) for number in range(layer.num_inputs)]
        # Names, which identify tensors; None where an optional one is left out.
        self.inputs = [None if tensor is None else str(tensor.name) for tensor in tensors]
        self.outputs = [str(layer.get_output(number).name) for number in range(layer.num_outputs)]

    def arguments(self, values: Mapping[str, torch.Tensor]) -> list[torch.Tensor | None]:
        return [None if name is None else values[name] for name in self.inputs]


def _in_order(layers: list[_Layer]) -> list[_Layer]:
    """Return the layers such that each comes after those that it takes from.

    The parser adds some that compute a shape after the one that uses it.
    """
    producers = {name: number for number, layer in enumerate(layers) for name in layer.outputs}
    sorter = TopologicalSorter(
        {
            number: [producers[name] for name in layer.inputs if name in producers]
            for number, layer in enumerate(layers)
        }
    )
    return [layers[number] for number in sorter.static_order()]


def _checked(layer: _Layer, computed: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    for number, value in enumerate(computed):
        _check(layer.typed.get_output(number), value)
    return dict(zip(layer.outputs, computed, strict=True))


def _check(tensor: Any, value: torch.Tensor) -> None:
    """See that a value is what the network says of its tensor."""
    assert value.dtype == DTYPES[tensor.dtype.name], f"{tensor.name}: {value.dtype}"
    assert tensor.dtype.name != "FP4" or is_fp4(value), f"{tensor.name} is not of FP4"
    shape = tuple(tensor.shape)
    is_fitting = len(shape) == value.dim() and all(
        wanted in {-1, found} for wanted, found in zip(shape, value.shape, strict=True)
    )
    assert is_fitting, f"{tensor.name} is {shape}, found {tuple(value.shape)}"
