"""Networks as they are exported: typed, quantised, emulated, and compiled by TensorRT."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import transformers
from tests.builder.architectures import ARCHITECTURES, WINDOW, Architecture
from tests.builder.gpu_graph.graphs import Array, compute, cosines
from tests.builder.onnx_models import export_checkpoint
from tests.builder.random_models import save_random

from beicli.builder.gpu_graph.emulate import emulate
from beicli.builder.gpu_graph.linears import find_linears
from beicli.builder.gpu_graph.plan import GpuMethod, calibrate
from beicli.builder.gpu_graph.prepare import prepare
from beicli.builder.gpu_graph.quantize import quantize
from beicli.builder.gpu_graph.typed import HalfType, to_half
from beicli.builder.graph import export_onnx
from beicli.errors import PlanError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import ModelSpec, Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import graph_inputs
from beicli.tensorrt.compiler import CompileOptions, compile_plan

# Fused attention begins with heads of 16 numbers, and the table's are half of that.
SIZES = {"head_dim": 16, "query_pre_attn_scalar": 16, "embedding_size": 32}
SIZES |= dict.fromkeys(("hidden_size", "dim"), 64)
SIZES |= dict.fromkeys(("intermediate_size", "hidden_dim"), 128)
NUM_LAYERS = 2
# One token, the whole window, and much padding.
BATCHES = ([1], [WINDOW], [WINDOW, 1, 17])
SAMPLES = ([WINDOW], [30], [20], [9])


@dataclass(frozen=True, slots=True)
class Network:
    """attention, mlp: how many products a layer has of each. others: those before and behind."""

    name: str
    head: str = "Model"
    attention: int = 4
    mlp: int = 2
    others: int = 0
    onnx_opset: int | None = None

    def __str__(self) -> str:
        return f"{self.name}-{self.head}" + (f"-onnx{self.onnx_opset}" if self.onnx_opset else "")


# Each kind of layer: attention whole and in parts, with grouped heads, rotation, windows and a bias
# of positions; gated blocks, shared weights; and each kind of head.
NETWORKS = (
    Network("Bert", "ForTokenClassification"),
    Network("Albert", others=1),
    Network("DebertaV2"),
    Network("ModernBert", "ForSequenceClassification", attention=2),
    Network("DistilBert", "ForMaskedLM", others=1),
    Network("Qwen3", mlp=3),
    Network("Gemma3Text", mlp=3),
    Network("Bert", onnx_opset=14),
    Network("Qwen3", mlp=3, onnx_opset=18),
)


@dataclass(frozen=True, slots=True)
class Exported:
    """A network as the exporter writes it."""

    path: Path
    spec: ModelSpec

    def inputs(self, lengths: Sequence[int]) -> Mapping[str, Array]:
        generator = np.random.default_rng(5)
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
        some = generator.integers(5, self.spec.vocab_size, mask.shape).astype(np.int32)
        given = {
            "input_ids": np.where(mask == 1, some, np.int32(self.spec.pad_token_id)),
            "attention_mask": mask,
            "token_type_ids": generator.integers(0, 2, mask.shape).astype(np.int32) * mask,
        }
        return {tensor.name: given[tensor.name] for tensor in graph_inputs(self.spec)}

    def prepared(self) -> ir.Model:
        made = ir.load(self.path)
        prepare(made)
        return made

    def typed(self, half: HalfType, method: GpuMethod | None = None) -> ir.Model:
        made = self.prepared()
        to_half(made, half)
        if method is not None:
            samples = [self.inputs(lengths) for lengths in SAMPLES]
            network = calibrate(self.path, samples, method)
            quantize(made, network.quantized(network.plans()[0]))
        return made


Export = Any


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export a network once for all that is tried with it."""

    @functools.cache
    def made(network: Network) -> Exported:
        directory = tmp_path_factory.mktemp(str(network))
        architecture = next(each for each in ARCHITECTURES if str(each) == network.name)
        checkpoint = save_random(directory / "checkpoint", enlarged(architecture), network.head)
        if network.onnx_opset is not None:
            checkpoint = as_onnx(checkpoint, network.onnx_opset)
        pooling = Pooling.SPLADE if network.head == "ForMaskedLM" else None
        spec = inspect_checkpoint(checkpoint, pooling=pooling)
        export_onnx(load_module(checkpoint, spec), spec, directory / "model.onnx")
        return Exported(directory / "model.onnx", spec)

    return made


def as_onnx(checkpoint: Path, opset: int) -> Path:
    model = transformers.AutoModel.from_pretrained(checkpoint)
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0):
        names.append("token_type_ids")
    target = checkpoint.with_name("onnx")
    return export_checkpoint(checkpoint, target, model, inputs=names, opset=opset)


def enlarged(architecture: Architecture) -> Architecture:
    config = {name: SIZES.get(name, value) for name, value in architecture.config.items()}
    return replace(architecture, config=config)


def answers(made: ir.Model, network: Exported, directory: Path) -> Array:
    """Return what a graph says of every text, or of every token that is none of padding."""
    found = []
    for lengths in BATCHES:
        inputs = network.inputs(lengths)
        values = compute(made, directory, inputs)
        found.append(values[inputs["attention_mask"] == 1] if values.ndim == 3 else values)
    return np.concatenate(found)


def compiled(made: ir.Model, sm: int, directory: Path) -> bytes:
    trt = pytest.importorskip("tensorrt_rtx")
    graph = directory / "typed.onnx"
    ir.save(made, graph)
    names = [value.name for value in made.graph.inputs]
    options = CompileOptions(
        flavor="tensorrt-rtx",
        sm=sm,
        profiles=[{name or "": ((1, 1), (2, 16), (4, WINDOW)) for name in names}],
        hardware_compatibility="none",
        is_attention_fused=True,
    )
    return compile_plan(trt, graph, options)


every_network = pytest.mark.parametrize("network", NETWORKS, ids=str)


@every_network
def test_the_products_of_every_layer_are_found(network: Network, export: Export) -> None:
    found = find_linears(export(network).prepared())

    is_mlp = [linear.is_mlp for linear in found]
    assert is_mlp.count(False) == NUM_LAYERS * network.attention
    assert is_mlp.count(True) == NUM_LAYERS * network.mlp + network.others


@every_network
@pytest.mark.parametrize(("half", "least"), [("f16", 0.9999), ("bf16", 0.99)])
def test_16_bit_computes_nearly_what_float32_does(
    network: Network, half: HalfType, least: float, export: Export, tmp_path: Path
) -> None:
    exported = export(network)
    wanted = answers(ir.load(exported.path), exported, tmp_path)

    found = answers(emulate(exported.typed(half)), exported, tmp_path)

    assert cosines(found, wanted).min() > least


@every_network
def test_tensorrt_compiles_16_bit_with_attention_as_one_kernel(
    network: Network, export: Export, tmp_path: Path
) -> None:
    assert compiled(export(network).typed("bf16"), 89, tmp_path)


@pytest.mark.parametrize("network", [NETWORKS[0], NETWORKS[-2], NETWORKS[-1]], ids=str)
@pytest.mark.parametrize(("method", "least"), [("fp8", 0.95), ("fp4", 0.5)])
def test_8_and_4_bit_are_close_compile_for_gpus_that_have_them_and_for_no_others(
    network: Network, method: GpuMethod, least: float, export: Export, tmp_path: Path
) -> None:
    exported = export(network)
    wanted = answers(ir.load(exported.path), exported, tmp_path)
    ir.save(exported.typed("f16", method), tmp_path / "final.onnx")

    found = answers(emulate(ir.load(tmp_path / "final.onnx")), exported, tmp_path)

    assert cosines(found, wanted).min() > least
    assert compiled(ir.load(tmp_path / "final.onnx"), 120, tmp_path)
    without = {"fp8": 86, "fp4": 89}[method]
    with pytest.raises(PlanError, match=f"for sm{without}: .*HW-specific datatypes: {method}"):
        compiled(ir.load(tmp_path / "final.onnx"), without, tmp_path)
