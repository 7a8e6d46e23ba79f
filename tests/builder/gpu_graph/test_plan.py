from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tests.builder.gpu_graph.graphs import (
    OF_ATTENTION,
    OF_MLP,
    VOCABULARY,
    WIDTH,
    Array,
    compute,
    constant,
    cosines,
    encoder,
    model,
    node,
    tokens,
)

from beicli.builder.gpu_graph.emulate import emulate
from beicli.builder.gpu_graph.plan import (
    CalibratedGraph,
    GpuMethod,
    Trial,
    calibrate,
)
from beicli.builder.gpu_graph.prepare import prepare
from beicli.builder.gpu_graph.quantize import quantize
from beicli.builder.gpu_graph.typed import to_half
from beicli.builder.quantization.activations import Activations
from beicli.builder.quantization.graph import Level
from beicli.errors import BuildError

SAMPLES = [
    {"ids": np.random.default_rng(seed).integers(0, VOCABULARY, (1, 30)).astype(np.int32)}
    for seed in range(6)
]


def calibrated(directory: Path, method: GpuMethod) -> CalibratedGraph:
    ir.save(encoder(), directory / "exported.onnx")
    return calibrate(directory / "exported.onnx", SAMPLES, method)


@pytest.mark.parametrize(("method", "level"), [("fp8", Level.STATIC), ("fp4", Level.DYNAMIC)])
def test_the_loosest_plan_has_every_product(
    method: GpuMethod, level: Level, tmp_path: Path
) -> None:
    loosest = calibrated(tmp_path, method).plans()[0]

    assert loosest.names(level) == (*OF_ATTENTION, *OF_MLP)
    assert loosest.quantized_fraction == 1


def test_plans_leave_out_one_product_after_the_other_the_worst_first(tmp_path: Path) -> None:
    network = calibrated(tmp_path, "fp8")
    errors = {each.name: each.errors[Level.STATIC] for each in network.errors}

    left_out = [set(plan.names(Level.KEPT)) for plan in network.plans()]

    worst = sorted(errors, key=lambda name: -errors[name])
    assert left_out == [set(worst[:number]) for number in range(len(left_out))]
    fractions = [plan.quantized_fraction for plan in network.plans()]
    assert fractions == sorted(fractions, reverse=True)
    assert 0.2 <= fractions[-1] <= 0.5
    assert len(fractions) > 2


@pytest.mark.parametrize("method", ["fp8_mlp_only", "fp4_mlp_only"])
def test_a_method_for_feed_forward_blocks_leaves_attention_alone(
    method: GpuMethod, tmp_path: Path
) -> None:
    network = calibrated(tmp_path, method)

    for plan in network.plans():
        assert set(plan.names(Level.KEPT)) >= set(OF_ATTENTION)
    loosest = network.plans()[0]
    assert set(network.quantized(loosest)) == set(OF_MLP)
    # Two of four products' size each, beside the four of attention.
    assert loosest.quantized_fraction == 0.5


def test_activations_are_scaled_by_the_largest_of_all_samples(tmp_path: Path) -> None:
    network = calibrated(tmp_path, "fp8")
    table = encoder().graph.initializers["table"].const_value
    assert table is not None

    rows = [table.numpy()[sample["ids"]] for sample in SAMPLES]
    assert network.amax["given"] == np.abs(rows).max()
    plan = network.plans()[0]
    assert network.quantized(plan)["query"].amax == network.amax["given"]


@pytest.mark.parametrize(("method", "least"), [("fp8", 0.998), ("fp4", 0.98)])
def test_a_plan_makes_a_graph_that_computes_nearly_the_same(
    method: GpuMethod, least: float, tmp_path: Path
) -> None:
    network = calibrated(tmp_path, method)
    inputs = {"ids": np.concatenate([sample["ids"] for sample in SAMPLES])}
    wanted = compute(encoder(), tmp_path, inputs)
    cosine = []

    for plan in (network.plans()[0], network.plans()[-1]):
        made = encoder()
        prepare(made)
        to_half(made, "bf16")
        quantize(made, network.quantized(plan))
        cosine.append(cosines(compute(emulate(made), tmp_path, inputs), wanted).min())

    assert cosine[0] > least
    # With half of the products in 16 bit it is closer.
    assert cosine[1] > cosine[0]


def test_products_of_sizes_that_kernels_do_not_have_stay_in_16_bit(tmp_path: Path) -> None:
    ids = ir.Value(
        name="ids", shape=ir.Shape(["batch", "length"]), type=ir.TensorType(ir.DataType.INT32)
    )
    narrow = constant("narrow", np.ones((VOCABULARY, 24), dtype=np.float32))
    weight = constant("weight", np.ones((24, WIDTH), dtype=np.float32))
    given, product, last = tokens("given", 24), tokens("product", WIDTH), tokens("last", WIDTH)
    made = model(
        [ids],
        [
            node("Gather", [narrow, ids], given),
            node("MatMul", [given, weight], product),
            node("Relu", [product], last),
        ],
        *(narrow, weight),
    )
    ir.save(made, tmp_path / "exported.onnx")

    with pytest.raises(BuildError, match="none of the 1 products of tokens and weights"):
        calibrate(tmp_path / "exported.onnx", SAMPLES, "fp8").plans()


def activations(rows: Array) -> Activations:
    return Activations(rows, rows.min(axis=0), rows.max(axis=0))


def test_fp4_costs_more_than_fp8_and_a_stray_number_costs_more_than_none() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(100, WIDTH)).astype(np.float32)
    weight = generator.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    stray = rows.copy()
    stray[0, 0] = 1e5

    fp8 = Trial.of(activations(rows), "fp8").error(weight)
    fp4 = Trial.of(activations(rows), "fp4").error(weight)

    assert 1e-5 < fp8 < fp4 < 0.1
    assert Trial.of(activations(stray), "fp8").error(weight) > 2 * fp8
