import numpy as np
import onnx_ir as ir
from tests.builder.gpu_graph.graphs import (
    HIDDEN,
    OF_ATTENTION,
    OF_MLP,
    WIDTH,
    constant,
    encoder,
    model,
    node,
    tokens,
)

from beicli.builder.gpu_graph.linears import find_linears
from beicli.builder.gpu_graph.typed import to_half


def weight(name: str, *shape: int) -> ir.Value:
    return constant(name, np.zeros(shape, dtype=np.float32))


def test_products_of_tokens_are_found_in_order_and_the_head_is_not_among_them() -> None:
    found = find_linears(encoder())

    assert [linear.name for linear in found] == [*OF_ATTENTION, *OF_MLP]


def test_products_are_of_the_feed_forward_block_or_of_attention() -> None:
    found = find_linears(encoder())

    assert tuple(linear.name for linear in found if linear.is_mlp) == OF_MLP
    assert tuple(linear.name for linear in found if not linear.is_mlp) == OF_ATTENTION


def test_a_product_knows_its_activation_its_weight_and_their_sizes() -> None:
    down = find_linears(encoder())[-1]

    assert (down.activation, down.weight) == ("gelu", "down_weight")
    assert (down.in_features, down.out_features) == (HIDDEN, WIDTH)
    assert down.num_weights == HIDDEN * WIDTH


def test_the_same_products_are_found_once_the_graph_is_typed() -> None:
    made = encoder()
    wanted = [(linear.name, linear.is_mlp) for linear in find_linears(made)]

    to_half(made, "bf16")

    assert [(linear.name, linear.is_mlp) for linear in find_linears(made)] == wanted


def test_a_product_of_two_activations_is_none_of_them() -> None:
    given, product = tokens("given", WIDTH), tokens("product", WIDTH)
    last, kernel = tokens("last", WIDTH), weight("weight", WIDTH, WIDTH)
    made = model(
        [given],
        [
            node("MatMul", [given, given], product),
            node("MatMul", [product, kernel], tokens("next", WIDTH)),
            node("Relu", [product], last),
        ],
        kernel,
    )

    assert [linear.name for linear in find_linears(made)] == ["next"]


def test_scores_of_tokens_that_the_graph_gives_out_are_a_head() -> None:
    given, hidden = tokens("given", WIDTH), tokens("hidden", WIDTH)
    active, scores, logits = (tokens(name, WIDTH) for name in ("active", "scores", "logits"))
    kernels = [weight("first", WIDTH, WIDTH), weight("second", WIDTH, WIDTH)]
    bias = weight("bias", WIDTH)
    made = model(
        [given],
        [
            node("MatMul", [given, kernels[0]], hidden),
            node("Relu", [hidden], active),
            node("MatMul", [active, kernels[1]], scores),
            node("Add", [scores, bias], logits),
        ],
        *(*kernels, bias),
    )

    assert [linear.name for linear in find_linears(made)] == ["hidden"]


def test_attention_in_parts_is_attention_too() -> None:
    given, kernels = tokens("given", WIDTH), [weight(f"weight_{n}", WIDTH, WIDTH) for n in range(3)]
    names = ("query", "turned", "scores", "shares", "context", "attended", "last")
    query, turned, scores, shares, context, attended, last = (tokens(n, WIDTH) for n in names)
    made = model(
        [given],
        [
            node("MatMul", [given, kernels[0]], query),
            node("Transpose", [given], turned, perm=[0, 2, 1]),
            node("MatMul", [query, turned], scores),
            node("Softmax", [scores], shares),
            node("MatMul", [shares, given], context),
            node("MatMul", [context, kernels[1]], attended),
            node("Relu", [attended], last),
        ],
        *kernels,
    )

    assert [(linear.name, linear.is_mlp) for linear in find_linears(made)] == [
        ("query", False),
        ("attended", False),
    ]


def test_a_query_that_is_turned_in_parts_is_of_attention_still() -> None:
    given, kernels = tokens("given", WIDTH), [weight(f"weight_{n}", WIDTH, WIDTH) for n in range(2)]
    factor = weight("factor", WIDTH)
    names = ("query", "first", "second", "rotated", "context", "attended", "last")
    query, first, second, rotated, context, attended, last = (tokens(n, WIDTH) for n in names)
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    made = model(
        [given],
        [
            node("MatMul", [given, kernels[0]], query),
            node("Mul", [query, factor], first),
            node("Neg", [query], second),
            node("Add", [first, second], rotated),
            node("Attention", [rotated, given, given], context, **heads),
            node("MatMul", [context, kernels[1]], attended),
            node("Add", [attended, given], last),
        ],
        *(*kernels, factor),
    )
    made.graph.outputs.clear()

    assert [(linear.name, linear.is_mlp) for linear in find_linears(made)] == [
        ("query", False),
        ("attended", False),
    ]
