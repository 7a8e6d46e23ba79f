"""The ONNX graph of a task module: what every compiler starts from."""

import functools
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import onnx_ir
import torch

from beicli.builder.onnx_checkpoint import MAX_BYTES_IN_GRAPH, write_onnx
from beicli.errors import BuildError
from beicli.model.spec import ModelSpec
from beicli.modeling.onnx_network import onnx_network
from beicli.modeling.quiet import first_line, quiet
from beicli.modeling.tasks import TaskModule, graph_inputs

# Opset 23 has `Attention` as one operator, which OpenVINO runs fused.
ONNX_OPSET = 23
_HALF = (onnx_ir.DataType.BFLOAT16, onnx_ir.DataType.FLOAT16)
# What is left to do with a network that a compiler cannot take.
TORCH_HINT = (
    "build it with `--backend torch`, which gives the same numbers more slowly, and report it with "
    "the name of the checkpoint"
)
# What is left to do with one that torch cannot take either.
ONNX_HINT = (
    "build from the checkpoint it was exported from, if that has safetensors, and report it with "
    "its name"
)


def failure_hint(module: TaskModule) -> str:
    """Return what is left to do with a network whose graph a compiler cannot take."""
    return TORCH_HINT if onnx_network(module) is None else ONNX_HINT


def _rewritten(module: TaskModule, spec: ModelSpec) -> AbstractContextManager[None]:
    """Put other code in place of what would not come out the same in a graph."""
    if spec.model_type == "deberta-v2":
        from beicli.builder.deberta import direct_attention  # noqa: PLC0415 - 0.1 s, for few

        return direct_attention(module, num_positions=spec.max_position_embeddings)
    return nullcontext()


def export_onnx(module: TaskModule, spec: ModelSpec, path: Path) -> int:
    """Write the module's ONNX graph, batch and length dynamic; return its opset.

    Raises BuildError if it cannot.
    """
    network = onnx_network(module)
    if network is not None:
        return write_onnx(network, module, spec, path)
    names = [tensor.name for tensor in graph_inputs(spec)]
    # Two different sizes, neither 0 nor 1, so that no size is taken for a constant; and a tensor
    # for each input, because torch.export takes one tensor given twice for one input.
    example = tuple(torch.ones(2, 7, dtype=torch.int32) for _ in names)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with quiet(), torch.no_grad(), _rewritten(module, spec):
            program = torch.export.export(
                module, example, dynamic_shapes=tuple(dynamic for _ in names)
            )
            write_program(program, module, path, names)
    except Exception as error:
        # The exporter raises anything from TypeError to its own internal classes.
        raise BuildError(
            f"the model cannot be exported: {type(error).__name__}: {first_line(error)}",
            hint=TORCH_HINT,
        ) from error
    return ONNX_OPSET


def write_program(
    program: torch.export.ExportedProgram, module: TaskModule, path: Path, input_names: list[str]
) -> None:
    """Write an exported program as an ONNX graph, with the outputs of `module`."""
    onnx_program = torch.onnx.export(
        program,
        opset_version=ONNX_OPSET,
        dynamo=True,
        input_names=input_names,
        output_names=list(module.output_names),
    )
    assert onnx_program is not None, "it is one of dynamo's"
    _widen_weights(onnx_program.model)
    num_bytes = sum(weight.nbytes for weight in module.parameters())
    onnx_program.save(path, external_data=num_bytes > MAX_BYTES_IN_GRAPH)


def _widen_weights(model: onnx_ir.Model) -> None:
    """Let 16 bit weights that are widened whole be written as float32, each when it is written.

    A compiler maps float32 weights from the file; those it has to widen it holds in memory. Tables
    of which rows are widened stay as they are.
    """
    nodes: list[Any] = list(model.graph)
    for node in nodes:
        if node.op_type != "Cast" or node.attributes["to"].as_int() != onnx_ir.DataType.FLOAT:
            continue
        weight = node.inputs[0]
        stored = weight.const_value
        if weight.name not in model.graph.initializers or stored.dtype not in _HALF:
            continue
        if len(weight.uses()) > 1:
            continue
        weight.const_value = onnx_ir.LazyTensor(
            functools.partial(_widened, stored.raw),
            dtype=onnx_ir.DataType.FLOAT,
            shape=stored.shape,
            name=weight.name,
        )
        weight.dtype = onnx_ir.DataType.FLOAT
        onnx_ir.convenience.replace_all_uses_with(node.outputs[0], weight)
        model.graph.remove(node, safe=True)


def _widened(weight: torch.Tensor) -> onnx_ir.TensorProtocol:
    return onnx_ir.tensor(weight.detach().to(torch.float32).numpy())
