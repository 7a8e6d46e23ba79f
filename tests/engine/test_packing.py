from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.artifact.engines import MODEL

from beicli.artifact.manifest import TensorInfo
from beicli.engine.batch import Batch, TokenSequence, padded_inputs
from beicli.engine.packing import is_packed, packed_inputs

MODEL_OF_PAIRS = replace(MODEL, takes_token_type_ids=True, pad_token_id=3)


def make_batch(lengths: list[int], *, has_types: bool) -> Batch:
    generator = np.random.default_rng(len(lengths))

    def some(size: int, high: int) -> np.ndarray:
        return generator.integers(0, high, size, dtype=np.int32)

    return Batch.from_sequences(
        [
            TokenSequence(some(length, 100), some(length, 2) if has_types else None)
            for length in lengths
        ]
    )


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    num_filled=st.integers(0, 9),
    further=st.integers(0, 5),
    has_types=st.booleans(),
)
def test_padded_by_their_places_tokens_lie_as_in_the_padded_layout(
    lengths: list[int], num_filled: int, further: int, *, has_types: bool
) -> None:
    batch = make_batch(lengths, has_types=has_types)
    is_token = batch.is_token(max(lengths) + further)

    packed = packed_inputs(batch, is_token, batch.num_tokens + num_filled, MODEL_OF_PAIRS)

    padded = padded_inputs(batch, is_token, MODEL_OF_PAIRS)
    for name in ("input_ids", "token_type_ids"):
        assert packed[name].shape == (1, batch.num_tokens + num_filled)
        laid_out = packed[name][0][packed["pad_index"]]
        np.testing.assert_array_equal(laid_out[is_token], padded[name][is_token])
    columns = np.broadcast_to(np.arange(is_token.shape[1]), is_token.shape)
    np.testing.assert_array_equal(
        packed["position_ids"][0][packed["pad_index"]][is_token], columns[is_token]
    )
    np.testing.assert_array_equal(packed["lengths"], padded["attention_mask"].sum(axis=1))
    assert {values.dtype for values in packed.values()} == {np.dtype(np.int32)}


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), num_filled=st.integers(0, 9))
def test_what_is_padded_and_unpadded_again_is_what_it_was(
    lengths: list[int], num_filled: int
) -> None:
    batch = make_batch(lengths, has_types=False)
    num_tokens = batch.num_tokens + num_filled

    packed = packed_inputs(batch, batch.is_token(), num_tokens, MODEL_OF_PAIRS)

    back = packed["pad_index"].reshape(-1)[packed["unpad_index"]]
    # Fillers take what the first token gets, and give nothing to anybody.
    np.testing.assert_array_equal(back, [*range(batch.num_tokens), *[0] * num_filled])
    assert (packed["input_ids"][0, batch.num_tokens :] == 3).all()


def test_a_model_without_token_types_is_given_none() -> None:
    batch = make_batch([3, 1], has_types=True)
    model = replace(MODEL, takes_token_type_ids=False)

    packed = packed_inputs(batch, batch.is_token(), 4, model)

    assert set(packed) == {"input_ids", "position_ids", "pad_index", "unpad_index", "lengths"}


def test_a_network_is_packed_that_is_told_the_places_of_tokens() -> None:
    inputs = [TensorInfo(name="input_ids", dtype="int32", shape=(1, "tokens"))]
    places = TensorInfo(name="pad_index", dtype="int32", shape=("batch", "length"))

    assert not is_packed(inputs)
    assert is_packed([*inputs, places])
