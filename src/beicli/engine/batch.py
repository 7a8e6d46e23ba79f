"""What goes into a forward pass and what comes out: ragged sequences in, one row each out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Token ids of several sequences, end to end, without padding.

    input_ids: [num_tokens], int32.
    cu_seqlens: [num_sequences + 1], int32; sequence i is input_ids[cu_seqlens[i]:cu_seqlens[i+1]].
    """

    input_ids: Int32
    cu_seqlens: Int32

    @classmethod
    def from_sequences(cls, sequences: Sequence[Int32]) -> "Batch":
        """Lay `sequences`, each [length] and not empty, end to end."""
        lengths = [len(sequence) for sequence in sequences]
        if not lengths or min(lengths) == 0:
            raise ValueError("a batch needs at least one sequence, and no sequence may be empty")
        cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        return cls(input_ids=np.concatenate(sequences, dtype=np.int32), cu_seqlens=cu_seqlens)

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    def padded(self, pad_token_id: int) -> tuple[Int32, Int32]:
        """Return `input_ids` and `attention_mask`, both [num_sequences, longest], padded right."""
        lengths = np.diff(self.cu_seqlens)
        positions = np.arange(int(lengths.max()), dtype=np.int32)
        is_token = positions < lengths[:, None]
        input_ids = np.full(is_token.shape, pad_token_id, dtype=np.int32)
        input_ids[is_token] = self.input_ids
        return input_ids, is_token.astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class EngineOutput:
    """One row per sequence, in the order of the batch.

    pooled: [num_sequences, output_dimension], float32, owned by the receiver.
    """

    pooled: Float32
