import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from beicli.engine.batch import Batch, Int32, TokenSequence, pad

_SEQUENCES = st.lists(
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=30), min_size=1, max_size=12
)


def batch_of(sequences: list[list[int]]) -> Batch:
    return Batch.from_sequences([TokenSequence(np.array(ids, dtype=np.int32)) for ids in sequences])


def padded(batch: Batch, pad_token_id: int) -> tuple[Int32, NDArray[np.int32]]:
    is_token = batch.is_token()
    return pad(batch.input_ids, is_token, pad_token_id), is_token.astype(np.int32)


def test_sequences_lie_end_to_end() -> None:
    batch = batch_of([[5, 6, 7], [8], [9, 10]])

    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert (batch.num_sequences, batch.num_tokens) == (3, 6)


def test_padding_goes_to_the_right_and_is_masked() -> None:
    input_ids, attention_mask = padded(batch_of([[5, 6, 7], [8]]), 1)

    assert input_ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@given(_SEQUENCES)
def test_cu_seqlens_cut_the_sequences_out_again(sequences: list[list[int]]) -> None:
    batch = batch_of(sequences)

    cut = np.split(batch.input_ids, batch.cu_seqlens[1:-1])

    assert [part.tolist() for part in cut] == sequences
    assert batch.num_sequences == len(sequences)
    assert batch.num_tokens == sum(map(len, sequences))


@given(_SEQUENCES, st.integers(0, 5))
def test_the_mask_cuts_the_sequences_out_of_the_padding_again(
    sequences: list[list[int]], pad_token_id: int
) -> None:
    input_ids, attention_mask = padded(batch_of(sequences), pad_token_id)

    longest = max(map(len, sequences))
    assert input_ids.shape == attention_mask.shape == (len(sequences), longest)
    assert [
        row[mask == 1].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)
    ] == sequences
    assert (input_ids[attention_mask == 0] == pad_token_id).all()


@given(_SEQUENCES)
def test_everything_is_int32(sequences: list[list[int]]) -> None:
    batch = Batch.from_sequences(
        [TokenSequence(np.array(ids, dtype=np.int64)) for ids in sequences]
    )

    arrays = [batch.input_ids, batch.cu_seqlens, padded(batch, 0)[0]]
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}


@pytest.mark.parametrize("sequences", [[], [[]], [[1], []]])
def test_a_batch_without_tokens_is_refused(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="no sequence may be empty"):
        batch_of(sequences)


def test_type_ids_lie_beside_their_tokens() -> None:
    pair = TokenSequence(np.array([5, 6, 7], np.int32), np.array([0, 0, 1], np.int32))
    text = TokenSequence(np.array([8, 9], np.int32))

    batch = Batch.from_sequences([text, pair])

    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [0, 0, 0, 0, 1]


def test_texts_alone_have_no_type_ids() -> None:
    assert batch_of([[1, 2], [3]]).token_type_ids is None
