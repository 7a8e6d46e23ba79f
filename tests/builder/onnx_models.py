"""Checkpoints whose weights are an ONNX model, as exporters of the hub's models write them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers

from beicli.modeling.quiet import quiet

_AXES = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}


class _Exported(torch.nn.Module):
    """Hidden states or logits, of inputs given in the order of `names`."""

    def __init__(self, model: transformers.PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True)))[0]


def export_checkpoint(
    checkpoint: Path,
    target: Path,
    model: transformers.PreTrainedModel,
    *,
    name: str = "onnx/model.onnx",
    **options: Any,
) -> Path:
    """Copy `checkpoint` to `target` with `model`, its network, as ONNX in place of safetensors."""

    def ignore(folder: str, _: list[str]) -> list[str]:
        return ["model.safetensors"] if Path(folder) == checkpoint else []

    shutil.copytree(checkpoint, target, ignore=ignore)
    path = target / name
    path.parent.mkdir(exist_ok=True)
    write_onnx(model, path, **options)
    return target


def write_onnx(
    model: transformers.PreTrainedModel,
    path: Path,
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
    opset: int = 18,
    is_dynamic: bool = True,
    has_data_file: bool = False,
) -> None:
    """Export a model with int64 inputs; an opset below 18 is that of the exporter before."""
    model.config.use_cache = False
    module = _Exported(model.eval(), inputs)
    example = tuple(torch.ones(2, 7, dtype=torch.int64) for _ in inputs)
    output = "last_hidden_state" if type(model).__name__.endswith("Model") else "logits"
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": [output]}
    with quiet(), torch.no_grad():
        if opset < 18:
            model.set_attn_implementation("eager")
            axes = {name: {0: "batch_size", 1: "sequence_length"} for name in inputs}
            torch.onnx.export(
                module, example, path, dynamo=False, opset_version=opset, dynamic_axes=axes, **names
            )
            return
        program = torch.onnx.export(
            module,
            example,
            opset_version=opset,
            dynamic_shapes=(tuple(_AXES for _ in inputs),) if is_dynamic else None,
            **names,
        )
    onnx.save(
        program.model_proto,
        path,
        save_as_external_data=has_data_file,
        location=f"{path.name}_data",
    )
