"""What an engine returned, given to the work it was computed for."""

from dataclasses import dataclass

import numpy as np

from beicli.engine.batch import Batch, EngineOutput, Float32
from beicli.scheduler.requests import Work


@dataclass(frozen=True, slots=True)
class Computed:
    """A batch that a slot is done with.

    is_typical: whether its time tells what batches cost when there are many of them.
    """

    work: list[Work]
    started_at: float
    finished_at: float
    is_typical: bool


def rows_of(work: list[Work], batch: Batch, output: EngineOutput) -> list[Float32]:
    """Give each piece of work its part of the output, of its tokens or of itself.

    Requests that want the one and requests that want the other may share a batch.
    """
    for values in _given(output):
        # Requests share rows.
        values.flags.writeable = False
    starts = batch.cu_seqlens
    rows = []
    for index, item in enumerate(work):
        source = output.tokens if item.needs_tokens else output.pooled
        assert source is not None, "the pipeline asks for what the engine has"
        rows.append(
            source[starts[index] : starts[index + 1]] if item.needs_tokens else source[index]
        )
    return rows


def not_finite(work: list[Work], output: EngineOutput) -> list[Work]:
    """Return the work whose row, which it has already, holds infinities or what is no number."""
    # All at once, as it is nearly always in vain.
    if all(np.isfinite(values).all() for values in _given(output)):
        return []
    return [item for item in work if item.row is None or not np.isfinite(item.row).all()]


def _given(output: EngineOutput) -> list[Float32]:
    return [values for values in (output.pooled, output.tokens) if values is not None]
