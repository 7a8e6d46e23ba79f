from pathlib import Path

import numpy as np
import onnx_ir as ir
from tests.builder.gpu_graph.graphs import Array, compute, constant, model, node, tokens

from beicli.builder.gpu_graph.guards import drop_guards, guard_masks

WIDTH, LENGTH = 16, 4
FLOAT, BOOL = ir.DataType.FLOAT, ir.DataType.BOOL


def normal(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def square(name: str, dtype: ir.DataType) -> ir.Value:
    shape = ir.Shape(["batch", "length", "length"])
    return ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))


def two_layers() -> ir.Model:
    """Attention twice with one mask of [length, length]."""
    given, first, second = (tokens(name, WIDTH) for name in ("given", "first", "second"))
    mask = ir.Value(name="mask", shape=ir.Shape(["length", "length"]), type=ir.TensorType(BOOL))
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    return model(
        [given, mask],
        [
            node("Attention", [given, given, given, mask], first, **heads),
            node("Attention", [first, first, first, mask], second, **heads),
        ],
    )


def test_a_query_that_sees_nothing_sees_everything_and_the_others_what_they_saw(
    tmp_path: Path,
) -> None:
    mask = np.tril(np.ones((LENGTH, LENGTH), dtype=bool))
    mask[2] = False
    everything = mask.copy()
    everything[2] = True
    given = normal(2, LENGTH, WIDTH)
    wanted = compute(two_layers(), tmp_path, {"given": given, "mask": everything})
    made = two_layers()

    guard_masks(made.graph)

    found = compute(made, tmp_path, {"given": given, "mask": mask})
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_layers_that_share_a_mask_share_its_guard() -> None:
    made = two_layers()

    guard_masks(made.graph)

    masks = {each.inputs[3] for each in made.graph if each.op_type == "Attention"}
    assert len(masks) == 1
    assert [each.op_type for each in made.graph].count("Or") == 1


def attention_in_parts(hidden: float) -> ir.Model:
    """Shares of scores, a mask added before and a guard behind, as decompositions have it."""
    scores, mask = square("scores", FLOAT), square("mask", BOOL)
    bias, masked, shares = (square(name, FLOAT) for name in ("bias", "masked", "shares"))
    asked, guarded, last = square("asked", BOOL), square("guarded", FLOAT), square("last", FLOAT)
    zero = constant("zero", np.array(0, dtype=np.float32))
    lowest = constant("lowest", np.array(hidden, dtype=np.float32))
    return model(
        [scores, mask],
        [
            node("Where", [mask, zero, lowest], bias),
            node("Add", [scores, bias], masked),
            node("Softmax", [masked], shares),
            node("IsNaN", [shares], asked),
            node("Where", [asked, zero, shares], guarded),
            node("Identity", [guarded], last),
        ],
        *(zero, lowest),
    )


def test_guards_of_attention_in_parts_are_dropped_and_its_rows_stay_numbers(
    tmp_path: Path,
) -> None:
    mask = np.tril(np.ones((1, LENGTH, LENGTH), dtype=bool))
    mask[0, 2] = False
    inputs = {"scores": normal(1, LENGTH, LENGTH), "mask": mask}
    wanted = compute(attention_in_parts(-np.inf), tmp_path, inputs)
    made = attention_in_parts(-np.inf)

    drop_guards(made.graph)

    assert [each.op_type for each in made.graph].count("Where") == 1
    found = compute(made, tmp_path, inputs)
    seeing = [0, 1, 3]
    np.testing.assert_allclose(found[0, seeing], wanted[0, seeing], atol=1e-6)
    # The third row sees nothing, so nothing that counts looks at it; but it is no NaN.
    np.testing.assert_allclose(found[0, 2], np.full(LENGTH, 1 / LENGTH), atol=1e-6)


def test_what_guards_something_else_stays() -> None:
    given, asked, last = tokens("given", WIDTH), tokens("asked", WIDTH), tokens("last", WIDTH)
    asked.dtype = BOOL
    zero = constant("zero", np.array(0, dtype=np.float32))
    made = model(
        [given],
        [node("IsNaN", [given], asked), node("Where", [asked, zero, given], last)],
        zero,
    )

    drop_guards(made.graph)

    assert [each.op_type for each in made.graph] == ["IsNaN", "Where"]
