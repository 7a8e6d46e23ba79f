"""The ONNX graph of the hybrid layout: tokens end to end, padded inside attention only."""

from pathlib import Path
from typing import Any

import torch

from beicli.artifact.manifest import TensorInfo
from beicli.builder.graph import ONNX_OPSET, write_program
from beicli.errors import BuildError
from beicli.model.spec import ModelSpec
from beicli.modeling.hybrid import HYBRID_HINT, HybridModule, hybrid_inputs
from beicli.modeling.quiet import first_line, quiet
from beicli.modeling.tasks import TaskModule, graph_inputs

# Of the example: no two sizes of the graph are the same, and none is 0 or 1.
_LENGTHS = (7, 4, 2)
# Below it are the ids that checkpoints give to padding, which may count as no position.
_FIRST_ID = 5
# Sums of a batch are computed in another order, and nothing else differs.
_TOLERANCE = 1e-3


def export_hybrid_onnx(
    module: TaskModule, spec: ModelSpec, path: Path
) -> tuple[int, tuple[TensorInfo, ...]]:
    """Write the module's graph in the hybrid layout; return its opset and what it takes.

    Raises BuildError if it cannot, such as of a network whose attention is not to be had apart.
    """
    inputs = hybrid_inputs(spec)
    hybrid = HybridModule(module, spec)
    shapes = {
        tensor.name: {axis: _size(name) for axis, name in enumerate(tensor.shape)}
        for tensor in inputs
    }
    try:
        with quiet(), torch.no_grad():
            _compare(hybrid, module, inputs, spec)
            program = torch.export.export(
                hybrid, (_example(inputs, spec),), dynamic_shapes=(shapes,)
            )
            write_program(program, module, path, [tensor.name for tensor in inputs])
    except BuildError:
        raise
    except Exception as error:
        # The exporter raises anything from TypeError to its own internal classes.
        raise BuildError(
            f"the model cannot be exported in the layout `hybrid`: {type(error).__name__}: "
            f"{first_line(error)}",
            hint=HYBRID_HINT,
        ) from error
    return ONNX_OPSET, inputs


def _size(name: int | str) -> Any:
    """Return how the exporter is told of a dimension."""
    return torch.export.Dim.DYNAMIC if isinstance(name, str) else torch.export.Dim.STATIC


def _compare(
    hybrid: HybridModule, module: TaskModule, inputs: tuple[TensorInfo, ...], spec: ModelSpec
) -> None:
    """Raise BuildError if sequences that lie end to end do not get what each gets alone."""
    example = _example(inputs, spec)
    found = hybrid(example)
    names = [tensor.name for tensor in graph_inputs(spec) if tensor.name != "attention_mask"]
    tokens = [example[name].split(_LENGTHS, dim=1) for name in names]
    alone = [module(ids, torch.ones_like(ids), *types) for ids, *types in zip(*tokens, strict=True)]
    for number, output in enumerate(found):
        # A row for each token, or for each sequence.
        wanted = torch.cat([each[number].flatten(0, -2) for each in alone])
        is_close = output.shape == wanted.shape and torch.allclose(
            output, wanted, rtol=_TOLERANCE, atol=_TOLERANCE
        )
        if not is_close:
            raise BuildError(
                f"`{spec.model_type}` does not compute the same `{module.output_names[number]}` "
                "where tokens lie end to end",
                hint=HYBRID_HINT,
            )


def _example(inputs: tuple[TensorInfo, ...], spec: ModelSpec) -> dict[str, torch.Tensor]:
    lengths = torch.tensor(_LENGTHS, dtype=torch.int32)
    columns = torch.arange(max(_LENGTHS), dtype=torch.int32)
    is_token = columns < lengths.unsqueeze(1)
    num_tokens = sum(_LENGTHS)
    pad_index = torch.zeros(is_token.shape, dtype=torch.int32)
    pad_index[is_token] = torch.arange(num_tokens, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    values = {
        "input_ids": _random(_FIRST_ID, spec.vocab_size, num_tokens, generator),
        "position_ids": columns.expand(is_token.shape)[is_token].unsqueeze(0),
        "pad_index": pad_index,
        "unpad_index": is_token.flatten().nonzero().flatten().to(torch.int32),
        "lengths": lengths,
        "token_type_ids": _random(0, 2, num_tokens, generator),
    }
    return {tensor.name: values[tensor.name] for tensor in inputs}


def _random(low: int, high: int, num_tokens: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(low, high, (1, num_tokens), dtype=torch.int32, generator=generator)
