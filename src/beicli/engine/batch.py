"""What goes into a forward pass and what comes out: ragged sequences in, their rows out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beicli.model.spec import ModelSpec

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """One tokenised input, special tokens included.

    input_ids: [num_tokens], int32.
    token_type_ids: [num_tokens], int32: 1 for tokens of a second text; None when all are 0.
    """

    input_ids: Int32
    token_type_ids: Int32 | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Several sequences, end to end, without padding.

    input_ids: [num_tokens], int32.
    cu_seqlens: [num_sequences + 1], int32; sequence i is input_ids[cu_seqlens[i]:cu_seqlens[i+1]].
    token_type_ids: [num_tokens], int32; None when all are 0.
    needs_tokens: whether the output of every token is wanted, beside that of each sequence.
    """

    input_ids: Int32
    cu_seqlens: Int32
    token_type_ids: Int32 | None = None
    needs_tokens: bool = False

    @classmethod
    def from_sequences(
        cls, sequences: Sequence[TokenSequence], *, needs_tokens: bool = False
    ) -> "Batch":
        """Lay `sequences`, none of them empty, end to end."""
        lengths = [len(sequence) for sequence in sequences]
        if not lengths or min(lengths) == 0:
            raise ValueError("a batch needs at least one sequence, and no sequence may be empty")
        cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        return cls(
            input_ids=np.concatenate([s.input_ids for s in sequences], dtype=np.int32),
            cu_seqlens=cu_seqlens,
            token_type_ids=_concatenate_type_ids(sequences),
            needs_tokens=needs_tokens,
        )

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(np.diff(self.cu_seqlens).max())

    def is_token(self, padded_length: int | None = None) -> NDArray[np.bool_]:
        """Where the padded batch has tokens; [num_sequences, padded_length], padded right.

        padded_length: None is that of the longest sequence.
        """
        lengths = np.diff(self.cu_seqlens)
        positions = np.arange(padded_length or self.longest, dtype=np.int32)
        is_token: NDArray[np.bool_] = positions < lengths[:, None]
        return is_token


@dataclass(frozen=True, slots=True, eq=False)
class EngineOutput:
    """What a forward pass gives, in the order of the batch; float32, owned by the receiver.

    pooled: [num_sequences, dimension]; None if the model has outputs for tokens only.
    tokens: [num_tokens, dimension], without padding, as in `Batch.cu_seqlens`; None unless the
        batch needs them.
    """

    pooled: Float32 | None
    tokens: Float32 | None = None


def pad(values: Int32, is_token: NDArray[np.bool_], padding: int) -> Int32:
    """Lay ragged `values`, [num_tokens], out as [num_sequences, longest], padded right."""
    padded = np.full(is_token.shape, padding, dtype=np.int32)
    padded[is_token] = values
    return padded


def padded_inputs(batch: Batch, is_token: NDArray[np.bool_], model: ModelSpec) -> dict[str, Int32]:
    """Return what the network of `model` takes, by name; each [num_sequences, longest].

    is_token: the batch's own, which whoever calls has another use for.
    """
    input_ids = pad(batch.input_ids, is_token, model.pad_token_id)
    inputs = {"input_ids": input_ids, "attention_mask": is_token.astype(np.int32)}
    if model.takes_token_type_ids:
        type_ids = batch.token_type_ids
        inputs["token_type_ids"] = (
            np.zeros_like(input_ids) if type_ids is None else pad(type_ids, is_token, 0)
        )
    return inputs


def _concatenate_type_ids(sequences: Sequence[TokenSequence]) -> Int32 | None:
    if all(sequence.token_type_ids is None for sequence in sequences):
        return None
    return np.concatenate(
        [
            np.zeros_like(s.input_ids) if s.token_type_ids is None else s.token_type_ids
            for s in sequences
        ],
        dtype=np.int32,
    )
