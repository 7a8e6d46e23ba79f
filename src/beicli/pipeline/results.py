"""What the pipeline answers: numbers in the order of the inputs, and what computing them took."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beicli.engine.batch import Float32, Int32


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went, in seconds; queue and inference are means over its inputs."""

    tokenization_s: float
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took.

    num_tokens: tokens of all inputs, special tokens included, after truncation; also of those that
        were computed for another input, or before.
    input_lengths: tokens of each input before truncation, special tokens included.
    num_truncated_inputs: how many inputs lost tokens to the length limit.
    """

    num_tokens: int
    input_lengths: tuple[int, ...]
    num_truncated_inputs: int
    timing: Timing


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingResult:
    """embeddings: [num_inputs, dimensions], float32."""

    embeddings: Float32
    usage: Usage


@dataclass(frozen=True, slots=True, eq=False)
class TokenEmbeddingResult:
    """embeddings: one array an input, [num_tokens, hidden_size], special tokens included."""

    embeddings: list[Float32]
    usage: Usage


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """The entries of a vector over the vocabulary that are not zero, by ascending index.

    indices: [num_entries], token ids; values: [num_entries], all above 0.
    """

    indices: Int32
    values: Float32


@dataclass(frozen=True, slots=True, eq=False)
class SparseEmbeddingResult:
    """vectors: one an input."""

    vectors: list[SparseVector]
    usage: Usage


@dataclass(frozen=True, slots=True, eq=False)
class PredictionResult:
    """scores: [num_inputs, num_labels], in the order of `ModelSpec.labels`; logits if raw."""

    scores: Float32
    usage: Usage


@dataclass(frozen=True, slots=True, eq=False)
class RerankResult:
    """scores: [num_texts], the relevance of each text, in their order; log-odds if raw."""

    scores: Float32
    usage: Usage


@dataclass(frozen=True, slots=True)
class Entity:
    """A token, or a span of tokens that belong together.

    token: `text[start:end]`, or the special token's own name, whose start and end are 0.
    token_id: 0 for a span. start, end: in code points.
    scores: by label; the best label alone unless raw scores were asked for.
    """

    token: str
    token_id: int
    start: int
    end: int
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class EntityResult:
    """entities: one list an input, in the order of the text."""

    entities: list[list[Entity]]
    usage: Usage


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedText:
    """A text's tokens; nothing is truncated.

    ids: [num_tokens]; tokens: as the vocabulary writes them.
    offsets: [num_tokens, 2], start and end in code points of the text; 0, 0 for special tokens
        that the tokenizer added.
    is_special: [num_tokens], whether the tokenizer added it.
    """

    text: str
    ids: Int32
    tokens: list[str]
    offsets: NDArray[np.int64]
    is_special: NDArray[np.bool_]
