"""What every engine is asked for: the pooled rows of some sequences."""

from beicli.engine.base import Engine
from beicli.engine.batch import Batch, Float32, Int32, TokenSequence


def batch_of(*sequences: Int32) -> Batch:
    """Return a batch of token ids."""
    return Batch.from_sequences([TokenSequence(ids) for ids in sequences])


def run(engine: Engine, *sequences: Int32) -> Float32:
    """Return a row for each sequence."""
    pooled = engine.forward(batch_of(*sequences)).pooled
    assert pooled is not None
    return pooled
