"""The hybrid layout as TensorRT reads it: the numbers of its network, and plans for real GPUs."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
from tests.builder.hybrids import Array, Hybrid, make_hybrid, without_filler
from tests.tensorrt.interpreter import NetworkInterpreter
from tests.tensorrt.networks import cosines

from beicli.artifact.gpu import Dimensions, Profile
from beicli.builder.gpu_graph.prepare import prepare
from beicli.builder.gpu_graph.typed import to_half
from beicli.tensorrt.api import Messages, make_logger
from beicli.tensorrt.compiler import CompileOptions, compile_plan, parse_graph
from beicli.tensorrt.profiles import input_shapes

LENGTHS = [40, 17, 1, 30]
PROFILE = Profile(
    minimum=Dimensions(num_sequences=1, length=1),
    optimum=Dimensions(num_sequences=4, length=16),
    maximum=Dimensions(num_sequences=8, length=48),
)

Make = Callable[[str], Hybrid]
every_network = pytest.mark.parametrize("name", ["Bert", "XLMRoberta", "ModernBert", "Qwen3"])


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Export an encoder once for all that is tried with it."""
    return functools.cache(lambda name: make_hybrid(name, "Model", tmp_path_factory.mktemp(name)))


@every_network
def test_the_network_that_tensorrt_reads_computes_what_torch_does(
    name: str, make: Make, rtx: ModuleType, tmp_path: Path
) -> None:
    made = make(name)
    given = made.given(LENGTHS, num_filled=3)
    model = ir.load(made.path)
    prepare(model)
    ir.save(model, tmp_path / "model.onnx")

    found = without_filler(interpret(rtx, tmp_path / "model.onnx", given), given)

    for output, values in made.alone(given).items():
        np.testing.assert_allclose(found[output], values, rtol=0, atol=1e-5)


@every_network
def test_in_16_bit_it_compiles_with_attention_as_one_kernel(
    name: str, make: Make, rtx: ModuleType, tmp_path: Path
) -> None:
    made = make(name)
    given = made.given(LENGTHS)
    model = ir.load(made.path)
    prepare(model)
    to_half(model, "f16")
    path = tmp_path / "model.onnx"
    ir.save(model, path)

    found = interpret(rtx, path, given)
    plans = [
        compile_plan(
            rtx,
            path,
            CompileOptions(
                flavor="tensorrt-rtx",
                sm=sm,
                profiles=[input_shapes(made.inputs, PROFILE)],
                hardware_compatibility="none",
                is_attention_fused=True,
            ),
        )
        for sm in (89, 120)
    ]

    assert cosines(found["embeddings"], made.alone(given)["embeddings"]).min() > 0.9999
    assert plans[0] != plans[1]


def interpret(trt: ModuleType, path: Path, given: dict[str, Array]) -> dict[str, Array]:
    """Return what the network object computes that TensorRT's parser makes of a graph."""
    messages = Messages()
    logger = make_logger(trt, messages)
    network = trt.Builder(logger).create_network(0)
    parser = parse_graph(trt, network, path, logger, messages)
    outputs = NetworkInterpreter(trt, network).run(given)
    del parser
    return outputs
