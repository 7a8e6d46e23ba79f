"""DeBERTa's buckets of distances as a table in the graph.

transformers computes the bucket of a distance with logarithms, and rounds up. Where a distance lies
on the edge of a bucket, the last bit of another library's logarithm puts it into the next one, and
the vectors of long texts move by several per cent. A table is also what costs least.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta


@contextmanager
def tabulated_distances(module: torch.nn.Module, *, num_positions: int) -> Iterator[None]:
    """Let the models below `module` look buckets up, as long as the block lasts.

    num_positions: of the longest input there can be.
    """
    compute = deberta.make_log_bucket_position
    tables = {
        (layer.position_buckets, layer.max_relative_positions): _table(layer, num_positions)
        for layer in module.modules()
        if isinstance(layer, deberta.DisentangledSelfAttention)
        and getattr(layer, "position_buckets", 0) > 0
    }

    def look_up(distances: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
        table = tables[num_buckets, max_distance]
        return table[distances + len(table) // 2]

    deberta.make_log_bucket_position = look_up
    try:
        yield
    finally:
        deberta.make_log_bucket_position = compute


def _table(layer: deberta.DisentangledSelfAttention, num_positions: int) -> torch.Tensor:
    """Return the bucket of each distance, from the most negative to the largest there can be."""
    distances = torch.arange(1 - num_positions, num_positions)
    return deberta.make_log_bucket_position(
        distances, layer.position_buckets, layer.max_relative_positions
    ).to(torch.int64)
