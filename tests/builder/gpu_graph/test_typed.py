from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tests.builder.gpu_graph.graphs import Array, compute, constant, model, node, tokens

from beicli.builder.gpu_graph.emulate import emulate
from beicli.builder.gpu_graph.typed import HALF_TYPES, HalfType, to_half

WIDTH = 16
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def normal(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def pooled(name: str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(["batch", WIDTH]), type=ir.TensorType(FLOAT))


def classifier() -> ir.Model:
    """Embeddings, a norm, a block with a residual, a mean over tokens and a head."""
    ids = ir.Value(
        name="ids", shape=ir.Shape(["batch", "length"]), type=ir.TensorType(ir.DataType.INT32)
    )
    table, gain = constant("table", normal(50, WIDTH)), constant("gain", normal(WIDTH))
    weight, bias = constant("weight", normal(WIDTH, WIDTH)), constant("bias", normal(WIDTH))
    head = constant("head", normal(WIDTH, WIDTH))
    axis = constant("axis", np.array([1]))
    half = constant("factor", np.array(0.5, dtype=np.float32))
    names = ("embedded", "normed", "product", "biased", "active", "scaled", "summed")
    embedded, normed, product, biased, active, scaled, summed = (tokens(n, WIDTH) for n in names)
    mean, logits = pooled("mean"), pooled("logits")
    return model(
        [ids],
        [
            node("Gather", [table, ids], embedded),
            node("LayerNormalization", [embedded, gain], normed),
            node("MatMul", [normed, weight], product),
            node("Add", [product, bias], biased),
            node("Gelu", [biased], active),
            node("Mul", [active, half], scaled),
            node("Add", [scaled, normed], summed),
            node("ReduceMean", [summed, axis], mean, keepdims=0),
            node("MatMul", [mean, head], logits),
        ],
        *(table, gain, weight, bias, head, axis, half),
    )


def types(typed: ir.Model) -> dict[str, ir.DataType | None]:
    return {each.outputs[0].name or "": each.outputs[0].dtype for each in typed.graph}


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_tokens_are_computed_in_16_bit_and_what_is_pooled_in_32(dtype: HalfType) -> None:
    typed = classifier()

    to_half(typed, dtype)

    found = types(typed)
    for name in ("embedded", "normed", "product", "biased", "active", "scaled", "summed"):
        assert found[name] == HALF_TYPES[dtype], name
    for name in ("mean", "logits"):
        assert found[name] == FLOAT, name


def test_inputs_and_outputs_of_a_graph_keep_their_types() -> None:
    typed = classifier()

    to_half(typed, "f16")

    assert [value.dtype for value in typed.graph.inputs] == [ir.DataType.INT32]
    assert [value.dtype for value in typed.graph.outputs] == [FLOAT]
    assert [value.name for value in typed.graph.outputs] == ["logits"]


def test_an_output_of_tokens_is_widened_under_its_name() -> None:
    given, weight = tokens("given", WIDTH), constant("weight", normal(WIDTH, WIDTH))
    typed = model([given], [node("MatMul", [given, weight], tokens("hidden", WIDTH))], weight)

    to_half(typed, "f16")

    (output,) = typed.graph.outputs
    assert (output.name, output.dtype) == ("hidden", FLOAT)
    (product,) = (each for each in typed.graph if each.op_type == "MatMul")
    assert product.outputs[0].dtype == HALF


def test_weights_are_stored_once_in_the_type_they_are_used_in() -> None:
    typed = classifier()

    to_half(typed, "f16")

    stored = {name: value.dtype for name, value in typed.graph.initializers.items()}
    halves = ("table", "gain", "weight", "bias", "factor")
    assert stored == {f"{name}/float16": HALF for name in halves} | {
        "head": FLOAT,
        "axis": ir.DataType.INT64,
    }


def test_every_operator_has_floats_of_one_type(tmp_path: Path) -> None:
    typed = classifier()
    to_half(typed, "bf16")
    ir.save(typed, tmp_path / "typed.onnx")

    for each in ir.load(tmp_path / "typed.onnx").graph:
        values = [value for value in (*each.inputs, *each.outputs) if value is not None]
        floats = {
            value.dtype for value in values if value.dtype and value.dtype.is_floating_point()
        }
        assert len(floats) == 1 or each.op_type == "Cast", each


def test_exponentials_are_computed_in_32_bit_between_products_in_16() -> None:
    given, weight = tokens("given", WIDTH), constant("weight", normal(WIDTH, WIDTH))
    product, shares, last = (tokens(name, WIDTH) for name in ("product", "shares", "last"))
    typed = model(
        [given],
        [
            node("MatMul", [given, weight], product),
            node("Softmax", [product], shares, axis=-1),
            node("MatMul", [shares, weight], last),
            node("ReduceSum", [last], pooled("sum")),
        ],
        weight,
    )

    to_half(typed, "f16")

    assert [(each.op_type, each.outputs[0].dtype) for each in typed.graph] == [
        ("Cast", HALF),
        ("MatMul", HALF),
        ("Cast", FLOAT),
        ("Softmax", FLOAT),
        ("Cast", HALF),
        ("MatMul", HALF),
        ("Cast", FLOAT),
        ("ReduceSum", FLOAT),
    ]


def test_what_adds_a_wide_and_a_narrow_value_is_wide() -> None:
    given, weight = tokens("given", WIDTH), constant("weight", normal(WIDTH, WIDTH))
    product, root, summed = (tokens(name, WIDTH) for name in ("product", "root", "summed"))
    typed = model(
        [given],
        [
            node("MatMul", [given, weight], product),
            node("Sqrt", [given], root),
            node("Add", [product, root], summed),
        ],
        weight,
    )

    to_half(typed, "f16")

    assert types(typed)["summed"] == FLOAT


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_constant_that_hides_what_is_masked_stays_finite(dtype: HalfType) -> None:
    given, weight = tokens("given", WIDTH), constant("weight", normal(WIDTH, WIDTH))
    lowest = constant("lowest", np.array(np.finfo(np.float32).min))
    product, summed = tokens("product", WIDTH), tokens("summed", WIDTH)
    typed = model(
        [given],
        [node("MatMul", [given, weight], product), node("Max", [product, lowest], summed)],
        *(weight, lowest),
    )

    to_half(typed, dtype)

    (stored,) = (
        value for name, value in typed.graph.initializers.items() if name.startswith("lowest/")
    )
    assert stored.dtype == HALF_TYPES[dtype]
    assert stored.const_value is not None
    assert np.isfinite(stored.const_value.numpy().astype(np.float32))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_rows_of_attention_that_are_masked_throughout_are_still_numbers(
    dtype: HalfType, tmp_path: Path
) -> None:
    given, weight = tokens("given", WIDTH), constant("weight", normal(WIDTH, WIDTH))
    product, context = tokens("product", WIDTH), tokens("context", WIDTH)
    mask = ir.Value(name="mask", shape=ir.Shape(["length", "length"]), type=ir.TensorType(FLOAT))
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    typed = model(
        [given, mask],
        [
            node("MatMul", [given, weight], product),
            node("Attention", [product, product, product, mask], context, **heads),
        ],
        weight,
    )
    hidden = np.full((3, 3), np.finfo(np.float32).min, dtype=np.float32)
    hidden[0, :2] = 0

    to_half(typed, dtype)

    inputs = {"given": normal(1, 3, WIDTH), "mask": hidden}
    found = compute(emulate(typed), tmp_path, inputs)[0]
    assert np.isfinite(found).all()
    # What is hidden has no part in the first row.
    values = (inputs["given"][0] @ normal(WIDTH, WIDTH)).reshape(3, 2, WIDTH // 2)
    scores = np.einsum("hf,khf->hk", values[0], values[:2]) / np.sqrt(WIDTH / 2)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    wanted = np.einsum("hk,khf->hf", shares, values[:2]).reshape(-1)
    np.testing.assert_allclose(found[0], wanted, rtol=0.05, atol=0.05)
