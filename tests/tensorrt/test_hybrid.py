"""The hybrid layout as TensorRT reads it: the numbers of its network, and plans for real GPUs."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
from tests.builder.hybrids import Hybrid, make_hybrid, without_filler
from tests.tensorrt.networks import WrittenGraph, cosines

from beicli.artifact.gpu import Dimensions, Profile
from beicli.builder.gpu_graph.prepare import prepare
from beicli.builder.gpu_graph.typed import to_half
from beicli.tensorrt.compiler import CompileOptions, compile_plan
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

    found = without_filler(
        WrittenGraph(tmp_path / "model.onnx").interpret(rtx, given, is_padded=False), given
    )

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

    found = WrittenGraph(path).interpret(rtx, given, is_padded=False)
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
