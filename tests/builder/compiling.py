"""A network as the compiler runs it, without the rest of a build."""

from pathlib import Path

from beicli.artifact.manifest import OPENVINO_MODEL
from beicli.builder import openvino
from beicli.builder.graph import export_onnx
from beicli.model.spec import ModelSpec
from beicli.modeling.tasks import TaskModule
from beicli.openvino_api import ov


def compile_f32(module: TaskModule, spec: ModelSpec, directory: Path) -> ov.InferRequest:
    """Export a loaded module into `directory` and compile it, in float32 on every CPU."""
    export_onnx(module, spec, directory / "model.onnx")
    is_guarded = spec.model_type not in openvino.MASKED_BY_PADDING_ALONE
    openvino.convert(directory / "model.onnx", directory, is_guarded=is_guarded)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(directory / OPENVINO_MODEL, "CPU", options)
    return compiled.create_infer_request()
