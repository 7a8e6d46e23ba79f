"""Tiny checkpoints as networks of TensorRT: exported, typed, quantised, parsed, compiled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from tests.tensorrt.interpreter import NetworkInterpreter

from beicli.builder.gpu_graph.emulate import emulate
from beicli.builder.gpu_graph.plan import GpuMethod, calibrate
from beicli.builder.gpu_graph.prepare import prepare
from beicli.builder.gpu_graph.quantize import quantize
from beicli.builder.gpu_graph.typed import HalfType, to_half
from beicli.builder.graph import export_onnx
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import TaskModule, graph_inputs
from beicli.openvino_api import ov
from beicli.tensorrt.api import Messages, collection_paused, make_logger
from beicli.tensorrt.compiler import CompileOptions, compile_plan, parse_graph

Array = NDArray[Any]
Inputs = Mapping[str, NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Exported:
    """A checkpoint's module, and its graph in float32 at `path`."""

    spec: ModelSpec
    module: TaskModule
    path: Path

    def write(
        self, *, half: HalfType | None = None, method: GpuMethod | None = None
    ) -> "WrittenGraph":
        """Write the graph as the builder does; half: its type, None for float32."""
        model = ir.load(self.path)
        prepare(model)
        if half is not None:
            to_half(model, half)
        if method is not None:
            samples = [some_inputs(self.spec, [length], seed=length) for length in (6, 13, 20)]
            calibrated = calibrate(self.path, samples, method)
            # The first plan leaves nothing out that the method is for.
            quantize(model, calibrated.quantized(calibrated.plans()[0]))
        path = self.path.with_name(f"{half}-{method}.onnx")
        ir.save(model, path)
        return WrittenGraph(path)

    def compute(self, inputs: Inputs) -> dict[str, Array]:
        """Return what torch says in float32, each text alone and without any padding."""
        lengths = inputs["attention_mask"].sum(axis=1)
        rows: list[tuple[Array, ...]] = []
        for number, length in enumerate(lengths):
            alone = [
                torch.from_numpy(inputs[tensor.name][number : number + 1, :length])
                for tensor in graph_inputs(self.spec)
            ]
            with torch.no_grad():
                rows.append(tuple(output.numpy() for output in self.module(*alone)))
        # Tokens end to end, texts one below the other.
        return {
            name: np.concatenate([row[number].reshape(-1, row[number].shape[-1]) for row in rows])
            for number, name in enumerate(self.module.output_names)
        }


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """A graph for TensorRT at `path`; is_padded: whether outputs are rid of those of padding."""

    path: Path

    def interpret(
        self, trt: ModuleType, inputs: Mapping[str, Array], *, is_padded: bool = True
    ) -> dict[str, Array]:
        """Return what the network object that TensorRT's parser makes of it computes."""
        messages = Messages()
        logger = make_logger(trt, messages)
        with collection_paused():
            builder = trt.Builder(logger)
            network = builder.create_network(0)
            # It holds the weights.
            parser = parse_graph(trt, network, self.path, logger, messages)
        outputs = NetworkInterpreter(trt, network).run(inputs)
        del parser
        return without_padding(outputs, inputs) if is_padded else outputs

    def emulate(self, inputs: Mapping[str, Array], *, is_padded: bool = True) -> dict[str, Array]:
        """Return what its emulation computes, run by OpenVINO in float32 as the gate does."""
        path = self.path.with_suffix(".emulated.onnx")
        ir.save(emulate(ir.load(self.path)), path)
        compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs = compiled(dict(inputs))
        named = {port.get_any_name(): outputs[port] for port in compiled.outputs}
        return without_padding(named, inputs) if is_padded else named

    def compile(self, trt: ModuleType, sm: int, **changes: Any) -> bytes:
        """Return the plan for a GPU; attention must be fused unless `changes` say otherwise."""
        names = [value.name for value in ir.load(self.path).graph.inputs]
        shapes = ((1, 1), (4, 16), (8, 48))
        options: dict[str, Any] = {
            "profiles": [dict.fromkeys(names, shapes)],
            "is_attention_fused": True,
        }
        return compile_plan(
            trt,
            self.path,
            CompileOptions(
                flavor="tensorrt-rtx", sm=sm, hardware_compatibility="none", **options | changes
            ),
        )


def export(checkpoint: Path, directory: Path, pooling: Pooling | None = None) -> Exported:
    """Export a checkpoint into `directory`."""
    spec = inspect_checkpoint(checkpoint, pooling=pooling)
    module = load_module(checkpoint, spec)
    directory.mkdir()
    export_onnx(module, spec, directory / "model.onnx")
    return Exported(spec, module, directory / "model.onnx")


def some_inputs(spec: ModelSpec, lengths: list[int], seed: int = 5) -> Inputs:
    """Make up a padded batch of texts, with two token types where the graph takes them."""
    generator = np.random.default_rng(seed)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = generator.integers(5, spec.vocab_size, mask.shape).astype(np.int32)
    given = {
        "input_ids": np.where(mask == 1, tokens, np.int32(spec.pad_token_id)),
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, mask.shape).astype(np.int32) * mask,
    }
    return {tensor.name: given[tensor.name] for tensor in graph_inputs(spec)}


def without_padding(outputs: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of tokens end to end, without those of padding; others as they are."""
    is_real = inputs["attention_mask"].astype(bool)
    return {
        name: values[is_real] if values.ndim > is_real.ndim else values
        for name, values in outputs.items()
    }


def cosines(left: Array, right: Array) -> Array:
    """Cosines of rows, [num_rows, features]."""
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    products = (wide_left * wide_right).sum(axis=-1)
    found: Array = (
        products / np.linalg.norm(wide_left, axis=-1) / np.linalg.norm(wide_right, axis=-1)
    )
    return found
