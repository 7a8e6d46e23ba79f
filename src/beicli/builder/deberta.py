"""DeBERTa v2 and v3 for a graph: the same attention with less work, and as one operator.

transformers scores each query against a table of relative positions, then picks, for every pair of
tokens, the entry of their distance; picking takes longer than the rest of a layer. Here the table
is put in the order of the distances first, so that what belongs to a pair of tokens lies one place
further in each row, and a view of the scores with longer rows has it in its place.

The bucket of a distance is looked up as well: transformers computes it with logarithms and rounds
up, and on the edge of a bucket the last bit of another library's logarithm decides, which moves the
vectors of long texts by several per cent.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta


@contextmanager
def direct_attention(module: torch.nn.Module, *, num_positions: int) -> Iterator[None]:
    """Let the DeBERTa models below `module` compute so, as long as the block lasts.

    num_positions: of the longest input there can be.
    """
    layers = [m for m in module.modules() if isinstance(m, deberta.DisentangledSelfAttention)]
    for layer in layers:
        table = _table(layer, num_positions) if layer.relative_attention else None
        layer.forward = functools.partial(_attend, layer, table)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _table(layer: Any, num_positions: int) -> torch.Tensor:
    """Return the row of the relative embeddings for each distance, from the most negative."""
    distances = torch.arange(1 - num_positions, num_positions)
    if layer.position_buckets > 0:
        distances = deberta.make_log_bucket_position(
            distances, layer.position_buckets, layer.max_relative_positions
        ).to(torch.int64)
    return torch.clamp(distances + layer.pos_ebd_size, 0, 2 * layer.pos_ebd_size - 1)


def _attend(
    layer: Any,
    table: torch.Tensor | None,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    *_: object,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """Compute what `DisentangledSelfAttention.forward` does.

    hidden_states: [batch, length, hidden_size]; attention_mask: [batch, 1, length, length].
    """
    num_heads = layer.num_attention_heads
    asking = given.get("query_states")
    query = _heads(layer.query_proj(hidden_states if asking is None else asking), num_heads)
    key = _heads(layer.key_proj(hidden_states), num_heads)
    value = _heads(layer.value_proj(hidden_states), num_heads)
    scale = (query.shape[-1] * (1 + len({"c2p", "p2c"} & {*layer.pos_att_type}))) ** -0.5
    bias = torch.where(attention_mask.bool(), 0.0, torch.finfo(query.dtype).min)
    if table is not None:
        length = hidden_states.shape[1]
        middle = table.shape[0] // 2
        # Distances from -length to length - 1. The first is never used, and evens the rows.
        rows = table[torch.arange(-length, length).clamp(min=-middle) + middle]
        bias = bias + scale * _position_scores(layer, query, key, given["rel_embeddings"], rows)
    context = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    return context.transpose(1, 2).flatten(2), None


def _position_scores(
    layer: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    rel_embeddings: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """Score each token against the distance to each other; [batch, heads, length, length].

    rows: [2 * length], of the embeddings of the distances from -length to length - 1.
    """
    length = query.shape[2]
    embeddings = rel_embeddings[: 2 * layer.pos_ebd_size]
    prefix = "" if layer.share_att_key else "pos_"

    def project(kind: str) -> torch.Tensor:
        projection = getattr(layer, f"{prefix}{kind}_proj")
        return _heads(projection(embeddings)[None], layer.num_attention_heads)

    scores: Any = 0.0
    if "c2p" in layer.pos_att_type:
        positions = project("key")[:, :, rows.flip(0)]
        # Query i has what belongs to key j in column length - 1 - i + j.
        scores = scores + _picked(query @ positions.transpose(-1, -2), start=length - 1)
    if "p2c" in layer.pos_att_type:
        positions = project("query")[:, :, rows]
        # Key j has what belongs to query i in column length - j + i.
        picked = _picked(key @ positions.transpose(-1, -2), start=length)
        scores = scores + picked.transpose(-1, -2)
    return scores


def _picked(scores: torch.Tensor, *, start: int) -> torch.Tensor:
    """Return of each row i its columns from start - i on, as many as there are rows.

    scores: [batch, heads, length, 2 * length]. In a view whose rows are one shorter, each row
    starts one place further, so these columns stand below each other.
    """
    length = scores.shape[2]
    shorter = scores.flatten(2)[..., start : start + length * (2 * length - 1)]
    return shorter.unflatten(2, (length, 2 * length - 1))[..., :length]


def _heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Turn [batch, length, hidden_size] into [batch, heads, length, size]."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)
