"""Attention and rotation of TensorRT, on padded batches."""

from typing import Any

import torch
from tests.tensorrt.movement import Arguments, Outputs, given, optional

_ATTRIBUTES = frozenset(
    {"causal", "causal_kind", "decomposable", "get_input", "get_output", "key_value_form"}
    | {"key_value_lengths", "mask", "metadata", "name", "norm_op", "normalization_quantize_scale"}
    | {"normalization_quantize_to_type", "num_inputs", "num_outputs", "num_ranks", "query_form"}
    | {"query_lengths", "set_input"}
)


def attention_input(layer: Any, inputs: Arguments) -> Outputs:
    """Return softmax(Q K^T + mask) V; queries and keys come scaled.

    Q: [batch, heads, length, features]. K, V: as many heads, or a divisor of them. mask: bool, true
    where it is looked at, or numbers that are added; broadcast. A query that sees nothing at all
    gives NaN: what TensorRT makes of it is not known, so nothing may depend on it.
    """
    attention = layer.attention
    _check(attention)
    query, key, value = (given(inputs, number) for number in range(3))
    mask = optional(inputs, 3)
    assert (mask is None) == (attention.mask is None)
    assert len(inputs) <= 4
    num_repeats = query.shape[1] // key.shape[1]
    key, value = (each.float().repeat_interleave(num_repeats, dim=1) for each in (key, value))
    scores = query.float() @ key.transpose(-1, -2)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask.float()
    scores = scores.masked_fill(~_visible(attention.causal_kind.name, scores), -torch.inf)
    # The second product takes 16 bit, and is divided by the sum afterwards.
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    product = weights.to(query.dtype).float() @ value
    return ((product / weights.sum(dim=-1, keepdim=True)).to(query.dtype),)


def _check(attention: Any) -> None:
    """See that nothing is asked of attention that the function above does not compute."""
    assert {name for name in dir(attention) if not name.startswith("_")} == _ATTRIBUTES
    assert attention.query_form.name == attention.key_value_form.name == "PADDED_BHND"
    assert attention.query_lengths is None
    assert attention.key_value_lengths is None
    assert attention.norm_op.name == "SOFTMAX"
    assert attention.normalization_quantize_scale is None
    assert attention.normalization_quantize_to_type.name == "FLOAT"
    assert attention.num_outputs == 1
    assert attention.num_ranks == 1
    assert attention.causal is (attention.causal_kind.name != "NONE")


def _visible(causal_kind: str, scores: torch.Tensor) -> torch.Tensor:
    """Return which keys a query sees: [num_queries, num_keys]."""
    num_queries, num_keys = scores.shape[-2:]
    everything = torch.ones(num_queries, num_keys, dtype=torch.bool)
    match causal_kind:
        case "NONE":
            return everything
        case "UPPER_LEFT":
            return everything.tril()
        case "LOWER_RIGHT":
            return everything.tril(num_keys - num_queries)
        case other:
            raise AssertionError(f"looks back by {other}")


def attention_output(_layer: Any, inputs: Arguments) -> Outputs:
    return (given(inputs, 0),)


def rotary_embedding(layer: Any, inputs: Arguments) -> Outputs:
    """Rotate pairs of features: the first half with the second, or neighbours.

    inputs: [batch, heads, length, features]; cosines and sines, [batch, length, features / 2].
    """
    assert len(inputs) == 3 or inputs[3] is None
    assert layer.rotary_embedding_dim == 0, "all features are rotated"
    value, cosines, sines = (given(inputs, number).float() for number in range(3))
    assert cosines.shape == sines.shape == (value.shape[0], *value.shape[2:3], value.shape[3] // 2)
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    if layer.interleaved:
        left, right = value[..., ::2], value[..., 1::2]
    else:
        left, right = value.chunk(2, dim=-1)
    rotated = (left * cosines - right * sines, left * sines + right * cosines)
    joined = torch.stack(rotated, dim=-1) if layer.interleaved else torch.cat(rotated, dim=-1)
    return (joined.reshape(value.shape).to(given(inputs, 0).dtype),)
