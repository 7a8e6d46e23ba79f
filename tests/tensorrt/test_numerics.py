"""What the networks compute that plans are compiled from, against torch and against the gate.

The network object of TensorRT's parser is interpreted, layer by layer, in its own types. In
float32 it must say what the checkpoint says; in fewer bits, what little is lost; and the emulation
by which the builder judges an engine must say what the network says.
"""

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
from tests.builder.gpu_graph.graphs import constant, model, node, tokens
from tests.tensorrt.conftest import BERT, MODERNBERT, QWEN3, Case, Export
from tests.tensorrt.networks import WrittenGraph, cosines, some_inputs

from beicli.builder.gpu_graph.linears import Linear
from beicli.builder.gpu_graph.plan import GpuMethod
from beicli.builder.gpu_graph.quantize import LowPrecision, QuantizedLinear, quantize
from beicli.builder.gpu_graph.typed import HalfType, to_half

TOLERANCE = 1e-5
# Much padding, none, and one text of one token.
BATCHES = ([5, 17, 1, 30, 48], [9, 9], [1])
CASES = (
    BERT,
    Case("Bert", "ForSequenceClassification"),
    Case("Bert", "ForTokenClassification"),
    Case("Bert", "ForMaskedLM"),
    Case("XLMRoberta", "Model", pooling="cls"),
    MODERNBERT,
    Case("ModernBert", "ForSequenceClassification"),
    Case("NomicBert", "Model"),
    Case("Llama", "Model"),
    QWEN3,
    Case("Qwen3", "ForSequenceClassification"),
    Case("Gemma3Text", "Model"),
)
HALVES: tuple[HalfType, ...] = ("f16", "bf16")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_float32_a_network_says_what_torch_says_of_each_text_alone(
    case: Case, exported: Export, rtx: ModuleType
) -> None:
    network = exported(case)
    graph = network.write()

    for lengths in BATCHES:
        inputs = some_inputs(network.spec, lengths)
        found = graph.interpret(rtx, inputs)
        wanted = network.compute(inputs)

        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=TOLERANCE)
            assert np.abs(values).max() > 100 * TOLERANCE


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_16_bit_little_is_lost_and_the_emulation_loses_as_much(
    case: Case, half: HalfType, exported: Export, rtx: ModuleType
) -> None:
    network = exported(case)
    graph = network.write(half=half)
    inputs = some_inputs(network.spec, BATCHES[0])

    found = graph.interpret(rtx, inputs)
    emulated = graph.emulate(inputs)

    for name, wanted in network.compute(inputs).items():
        assert cosines(found[name], wanted).min() >= 0.999
        assert cosines(emulated[name], found[name]).min() >= 0.999
        # Nor is it float32 under another name.
        assert np.abs(found[name] - wanted).max() > TOLERANCE
        assert np.abs(emulated[name] - wanted).max() > TOLERANCE


@pytest.mark.parametrize(("method", "cosine"), [("fp8", 0.99), ("fp4", 0.98)])
@pytest.mark.parametrize("half", HALVES)
def test_in_8_and_4_bit_the_emulation_says_what_the_network_says(
    method: GpuMethod, cosine: float, half: HalfType, exported: Export, rtx: ModuleType
) -> None:
    network = exported(BERT)
    graph = network.write(half=half, method=method)
    inputs = some_inputs(network.spec, BATCHES[0])

    found = graph.interpret(rtx, inputs)["embeddings"]
    emulated = graph.emulate(inputs)["embeddings"]

    lost = 1 - cosines(found, network.compute(inputs)["embeddings"])
    assert lost.max() <= 1 - cosine
    # Far less than quantising loses: it is the same loss.
    assert (1 - cosines(emulated, found)).max() < lost.max() / 20


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
@pytest.mark.parametrize("half", HALVES)
def test_one_product_is_emulated_number_by_number(
    precision: LowPrecision,
    half: HalfType,
    rtx: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    graph = WrittenGraph(tmp_path_factory.mktemp("product") / "model.onnx")
    ir.save(quantized_product(half, precision), graph.path)
    generator = np.random.default_rng(1)
    # Beyond what was seen while calibrating, and blocks of nothing and of next to nothing.
    sizes = np.repeat(generator.choice([0.0, 1e-7, 0.1, 1.0, 5.0], (4, 6, 4)), 16, axis=-1)
    given = (generator.normal(size=(4, 6, 64)) * sizes).astype(np.float32)

    (found,) = graph.interpret(rtx, {"x": given}, is_padded=False).values()
    (emulated,) = graph.emulate({"x": given}, is_padded=False).values()

    # Sums go in another order, so a few are rounded to the neighbouring number of 16 bit.
    assert (found == emulated).mean() > 0.98
    step = 2.0**-10 if half == "f16" else 2.0**-7
    np.testing.assert_allclose(emulated, found, rtol=step, atol=1e-5)
    assert np.abs(found).max() > 1


def quantized_product(half: HalfType, precision: LowPrecision) -> ir.Model:
    """Return a graph of one product, [batch, length, 64] with a weight of [64, 32]."""
    values = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    x, y, weight = tokens("x", 64), tokens("y", 32), constant("weight", values)
    made = model([x], [node("MatMul", [x, weight], y)], weight)
    to_half(made, half)
    linear = Linear("y", "x", "weight", in_features=64, out_features=32, is_mlp=True)
    quantize(made, {"y": QuantizedLinear(linear=linear, precision=precision, amax=4.0)})
    return made
