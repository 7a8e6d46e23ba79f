"""What the network of an engine in the layout `hybrid` takes: tokens end to end, and places."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.manifest import TensorInfo
from beicli.engine.batch import Batch, Int32
from beicli.model.spec import ModelSpec

_PLACES = "pad_index"


def is_packed(inputs: Iterable[TensorInfo]) -> bool:
    """Whether a network with these inputs takes tokens end to end, rather than padded."""
    return any(tensor.name == _PLACES for tensor in inputs)


def packed_inputs(
    batch: Batch, is_token: NDArray[np.bool_], num_tokens: int, model: ModelSpec
) -> dict[str, Int32]:
    """Return what the network takes, by name, as `beicli.modeling.hybrid` describes it.

    is_token: [num_sequences, length], where the padded batch has tokens. num_tokens: at least those
    of the batch; what lies behind them is filled with tokens that no sequence sees.
    """
    num_filled = num_tokens - batch.num_tokens
    assert num_filled >= 0, "every token has a place"
    places = np.flatnonzero(is_token).astype(np.int32)
    pad_index = np.zeros(is_token.shape, dtype=np.int32)
    pad_index.reshape(-1)[places] = np.arange(batch.num_tokens, dtype=np.int32)
    inputs = {
        "input_ids": _filled(batch.input_ids, num_filled, model.pad_token_id)[None],
        "position_ids": _filled(places % is_token.shape[1], num_filled, 0)[None],
        _PLACES: pad_index,
        "unpad_index": _filled(places, num_filled, 0),
        "lengths": np.diff(batch.cu_seqlens).astype(np.int32),
    }
    if model.takes_token_type_ids:
        type_ids = batch.token_type_ids
        type_ids = np.zeros_like(batch.input_ids) if type_ids is None else type_ids
        inputs["token_type_ids"] = _filled(type_ids, num_filled, 0)[None]
    return inputs


def _filled(values: Int32, num_filled: int, value: int) -> Int32:
    return np.pad(values, (0, num_filled), constant_values=value)
