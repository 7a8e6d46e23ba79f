"""The ONNX graph of a task module: what every compiler starts from."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from beicli.errors import BuildError
from beicli.model.spec import ModelSpec
from beicli.modeling.quiet import first_line, quiet
from beicli.modeling.tasks import TaskModule, graph_inputs

# Opset 23 has `Attention` as one operator, which OpenVINO runs fused.
ONNX_OPSET = 23
# With more weights than this they lie in a file beside the graph, which is mapped, not read.
_MAX_BYTES_IN_GRAPH = 64 * 2**20
# What is left to do with a network that a compiler cannot take.
TORCH_HINT = (
    "build it with `--backend torch`, which gives the same numbers more slowly, and report it with "
    "the name of the checkpoint"
)


def _rewritten(module: TaskModule, spec: ModelSpec) -> AbstractContextManager[None]:
    """Put other code in place of what would not come out the same in a graph."""
    if spec.model_type == "deberta-v2":
        from beicli.builder.deberta import tabulated_distances  # noqa: PLC0415 - 0.1 s, for few

        return tabulated_distances(module, num_positions=spec.max_position_embeddings)
    return nullcontext()


def export_onnx(module: TaskModule, spec: ModelSpec, path: Path) -> None:
    """Write the module's ONNX graph, batch and length dynamic; raises BuildError if it cannot."""
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
            onnx_program = torch.onnx.export(
                program,
                opset_version=ONNX_OPSET,
                dynamo=True,
                input_names=names,
                output_names=list(module.output_names),
            )
            num_bytes = sum(weight.nbytes for weight in module.parameters())
            onnx_program.save(path, external_data=num_bytes > _MAX_BYTES_IN_GRAPH)
    except Exception as error:
        # The exporter raises anything from TypeError to its own internal classes.
        raise BuildError(
            f"the model cannot be exported: {type(error).__name__}: {first_line(error)}",
            hint=TORCH_HINT,
        ) from error
