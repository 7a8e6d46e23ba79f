"""The network of a checkpoint that has its weights only as an ONNX model, in float32.

ONNX Runtime computes it for the reference, in place of a model of transformers; the graph that is
compiled is made of the same file in `builder/onnx_checkpoint.py`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Self

import onnx
import torch
from onnx import TensorProto
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.utils import ModelOutput

from beicli.errors import BuildError, CheckpointError, UnsupportedModelError
from beicli.model.spec import ModelSpec, Task
from beicli.modeling.quiet import first_line

# The first in which positions can be counted, and floats compared.
MIN_OPSET = 11
_KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_HIDDEN_STATES = ("last_hidden_state", "token_embeddings")
_LOGITS = ("logits",)
_ROUNDING_OPERATORS = frozenset(
    {
        "BiasDequantizeLinear",
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearConv",
        "QLinearMatMul",
        "QMoE",
        "QOrderedMatMul",
        "QuantizeLinear",
    }
)
_HALF = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_FLOAT32_HINT = "build from its export in float32, or from the checkpoint it was made of"
_EXPORT_HINT = "export it again, with dynamic batch and length, as optimum does"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxInterface:
    """What an ONNX model takes and gives.

    name: of its file, for messages. inputs: the element type of each, as `TensorProto` numbers
    them. output: the one that the task reads. data: files of its weights, beside the graph.
    """

    path: Path
    name: str
    opset: int
    inputs: dict[str, int]
    output: str
    data: tuple[Path, ...]
    num_parameters: int


class OnnxNetwork(torch.nn.Module):
    """Computes an ONNX model as a model of transformers is computed; on a CPU, without gradients.

    forward gives the hidden states of an encoder, the logits of all else.
    """

    def __init__(self, interface: OnnxInterface, spec: ModelSpec) -> None:
        super().__init__()
        self.interface = interface
        self._position_offset = spec.position_offset
        self._width = _output_width(spec)
        self._gives_hidden_states = spec.task is Task.EMBEDDING
        self._session = _open_session(interface)

    @classmethod
    def load(cls, directory: Path, name: str, spec: ModelSpec) -> Self:
        """Load the file `name` of a checkpoint.

        Raises CheckpointError if a file of it is missing or cannot be read, UnsupportedModelError,
        by name, if it is not in float32 or takes what no request has.
        """
        return cls(_read_interface(directory, name, spec), spec)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> ModelOutput:
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": torch.zeros_like(input_ids)
            if token_type_ids is None
            else token_type_ids,
            "position_ids": attention_mask.cumsum(1) - 1 + self._position_offset,
        }
        feeds = {
            name: tensors[name].numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(element_type))
            for name, element_type in self.interface.inputs.items()
        }
        (values,) = self._session.run([self.interface.output], feeds)
        if values.shape[-1] != self._width:
            raise BuildError(
                f"`{self.interface.output}` of `{self.interface.name}` is {values.shape[-1]} wide, "
                f"and `config.json` describes {self._width}",
                hint="the two are of different models; export the checkpoint again",
            )
        output = torch.from_numpy(values)
        if self._gives_hidden_states:
            return BaseModelOutput(last_hidden_state=output)
        return MaskedLMOutput(logits=output)


def onnx_network(module: torch.nn.Module) -> OnnxNetwork | None:
    """Return the ONNX model that a task module computes, if it is one."""
    return next((part for part in module.modules() if isinstance(part, OnnxNetwork)), None)


def fit_spec(spec: ModelSpec, module: torch.nn.Module) -> ModelSpec:
    """Return what the engine is to be told: no token types where its ONNX model takes none."""
    network = onnx_network(module)
    if network is None or "token_type_ids" in network.interface.inputs:
        return spec
    return replace(spec, takes_token_type_ids=False)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a node, such as the branches of an If."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _output_width(spec: ModelSpec) -> int:
    match spec.task:
        case Task.EMBEDDING:
            return spec.hidden_size
        case Task.SPARSE_EMBEDDING:
            return spec.vocab_size
        case _:
            return len(spec.labels)


def _read_interface(directory: Path, name: str, spec: ModelSpec) -> OnnxInterface:
    path = directory / name
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        # Its parser is another library's, with errors of its own.
        raise CheckpointError(
            f"`{path}` cannot be read as ONNX: {first_line(error)}",
            hint="fetch the checkpoint again",
        ) from error
    domains = {"", "ai.onnx"}
    opset = max(
        (entry.version for entry in model.opset_import if entry.domain in domains), default=0
    )
    if opset < MIN_OPSET:
        raise UnsupportedModelError(
            f"`{name}` is of ONNX opset {opset}; {MIN_OPSET} or later is read", hint=_EXPORT_HINT
        )
    weights = list(_weights(model.graph))
    _check_precision(model, weights, name)
    return OnnxInterface(
        path=path,
        name=name,
        opset=opset,
        inputs=_read_inputs(model.graph, name),
        output=_choose_output(model.graph, name, spec),
        data=_find_data(path, weights),
        num_parameters=sum(
            prod(tensor.dims) for tensor in weights if tensor.data_type == TensorProto.FLOAT
        ),
    )


def _nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _nodes(graph.node)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor: initializers, and constants of nodes at any depth."""
    yield from graph.initializer
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
        for subgraph in subgraphs(node):
            yield from _weights(subgraph)


def _check_precision(model: onnx.ModelProto, weights: list[onnx.TensorProto], name: str) -> None:
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    operators = {node.op_type for body in bodies for node in _nodes(body)}
    rounding = sorted(operators & _ROUNDING_OPERATORS)
    if rounding:
        raise UnsupportedModelError(
            f"`{name}` is quantised: it has `{rounding[0]}` nodes, and an engine is compared with "
            "float32 numbers",
            hint=_FLOAT32_HINT,
        )
    half = next((tensor for tensor in weights if tensor.data_type in _HALF), None)
    if half is not None:
        raise UnsupportedModelError(
            f"`{name}` computes in 16 bit: `{half.name}` is in {_HALF[half.data_type]}, and an "
            "engine is compared with float32 numbers",
            hint=_FLOAT32_HINT,
        )


def _read_inputs(graph: onnx.GraphProto, name: str) -> dict[str, int]:
    # Before IR version 4 the weights were inputs too.
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    names = [value.name for value in inputs]
    unknown = [value for value in names if value not in _KNOWN_INPUTS]
    if unknown:
        raise UnsupportedModelError(
            f"`{name}` takes `{unknown[0]}`; known inputs are {', '.join(_KNOWN_INPUTS)}",
            hint="export the model for one pass over whole texts, without a cache",
        )
    missing = [value for value in _KNOWN_INPUTS[:2] if value not in names]
    if missing:
        raise UnsupportedModelError(
            f"`{name}` takes no `{missing[0]}`, without which texts cannot be told from padding",
            hint=_EXPORT_HINT,
        )
    for value in inputs:
        _check_dynamic(value, name)
    return {value.name: value.type.tensor_type.elem_type for value in inputs}


def _check_dynamic(value: onnx.ValueInfoProto, name: str) -> None:
    dimensions = value.type.tensor_type.shape.dim
    if any(dimension.HasField("dim_value") for dimension in dimensions):
        sizes = ", ".join(
            str(dimension.dim_value) if dimension.HasField("dim_value") else dimension.dim_param
            for dimension in dimensions
        )
        raise UnsupportedModelError(
            f"`{name}` takes `{value.name}` of the fixed size [{sizes}]; an engine takes batches "
            "and texts of any",
            hint=_EXPORT_HINT,
        )


def _choose_output(graph: onnx.GraphProto, name: str, spec: ModelSpec) -> str:
    """Return the output that the task reads: by its name, or because it is the only one."""
    names = [value.name for value in graph.output]
    wanted = _HIDDEN_STATES if spec.task is Task.EMBEDDING else _LOGITS
    chosen = next((output for output in wanted if output in names), None)
    if chosen is None and len(names) == 1:
        chosen = names[0]
    value = next((output for output in graph.output if output.name == chosen), None)
    num_dimensions = 2 if spec.task in {Task.CLASSIFICATION, Task.RERANKING} else 3
    if value is None or _rank(value) not in {num_dimensions, None}:
        raise UnsupportedModelError(
            f"`{name}` gives {', '.join(names)}; `{spec.architecture}` is read from "
            f"`{'` or `'.join(wanted)}`, of {num_dimensions} dimensions",
            hint="export the model for its own task, without what is made of its outputs",
        )
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UnsupportedModelError(
            f"`{name}` gives `{value.name}` in another type than float32", hint=_FLOAT32_HINT
        )
    return value.name


def _rank(value: onnx.ValueInfoProto) -> int | None:
    """Return the number of dimensions; None if the file does not state a shape."""
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _find_data(path: Path, weights: list[onnx.TensorProto]) -> tuple[Path, ...]:
    """Return the files that hold weights; raises CheckpointError if one is not beside the graph."""
    locations = {
        entry.value
        for tensor in weights
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for location in sorted(locations):
        if "/" in location or not (path.parent / location).is_file():
            raise CheckpointError(
                f"`{path}` has weights in `{location}`, which is not beside it",
                hint="put that file beside the graph, and build from the folder with "
                "`source: LOCAL`: fetched are files named as the graph with `_data` or `.data`, "
                "or as torch names tensors",
            )
    return tuple(path.parent / location for location in sorted(locations))


def _open_session(interface: OnnxInterface) -> Any:
    # Read when the library is loaded: without it, it reports to its makers over the network.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: PLC0415 - only such a checkpoint needs it

    options = onnxruntime.SessionOptions()
    # Errors are raised too; what is logged beside them is for developers.
    options.log_severity_level = 4
    # As it is written: fused operators may compute otherwise.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(
            interface.path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # Its exceptions share no class of their own.
        raise BuildError(
            f"ONNX Runtime cannot load `{interface.name}`: {first_line(error)}",
            hint="fetch the checkpoint again, or export it with standard operators only",
        ) from error
