"""What a checkpoint is: the facts its files state, and nothing of how it will run."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What the model answers.

    Classification has several labels for a text or a pair of texts, reranking one: relevance.
    """

    EMBEDDING = "embedding"
    SPARSE_EMBEDDING = "sparse_embedding"
    CLASSIFICATION = "classification"
    RERANKING = "reranking"
    TOKEN_CLASSIFICATION = "token_classification"


class Pooling(StrEnum):
    """How token vectors become one vector.

    mean_sqrt_len: the sum over the square root of the number of tokens. weighted_mean: token i,
    from 1, counts i times. splade: log(1 + relu) of the masked-language-model head's logits, the
    maximum over the tokens.
    """

    CLS = "cls"
    MAX = "max"
    MEAN = "mean"
    MEAN_SQRT_LEN = "mean_sqrt_len"
    WEIGHTED_MEAN = "weighted_mean"
    LAST_TOKEN = "last_token"
    SPLADE = "splade"


class ScoreActivation(StrEnum):
    """How a classifier's logits become scores: over all labels together, or each for itself."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class Activation(StrEnum):
    """The function after a Dense module, named by its torch class."""

    IDENTITY = "Identity"
    TANH = "Tanh"
    RELU = "ReLU"
    GELU = "GELU"
    SIGMOID = "Sigmoid"
    SILU = "SiLU"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseModule:
    """A linear layer of the sentence-transformers recipe, after pooling.

    path: its folder in the checkpoint, such as `2_Dense`.
    """

    path: str
    in_features: int
    out_features: int
    bias: bool
    activation: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A checkpoint's architecture, task and limits.

    architecture: the transformers class, such as `BertModel`.
    pooling: several are concatenated, in this order. Of a decoder's classifier, what its score is
        read from; empty for all other classifiers, whose heads need none, and for the last token.
    embedding_dimension: of what comes out, after Dense modules; the vocabulary's size for sparse
        embeddings, 0 for classifiers.
    max_position_embeddings: rows of the position table, as `config.json` states them.
    position_offset: rows a RoBERTa-like model never uses: its padding id + 1; else 0.
    max_input_length: tokens an input may have, special tokens included.
    normalize: whether the checkpoint's own recipe ends in unit length.
    do_lower_case: whether texts are lowercased before tokenising.
    prompts: named texts to put before an input; default_prompt_name is used when none is asked for.
    dtype: of the stored weights, such as `float32`.
    labels: what the outputs of a classifier stand for, in their order; else empty.
    score_activation: of classifiers, token classifiers included; else None.
    relevance_label: index of the label whose score ranks a text for a query; None if none does.
    rerank_template: Jinja text of `query` and `document` that a causal reranker is asked with;
        None if query and text are given as a pair.
    takes_token_type_ids: whether the graph is told which tokens belong to the second text.
    adapter: the task adapter merged into the weights, such as `retrieval.query`; None for none.
    """

    architecture: str
    model_type: str
    task: Task
    pooling: tuple[Pooling, ...]
    hidden_size: int
    embedding_dimension: int
    num_hidden_layers: int
    vocab_size: int
    max_position_embeddings: int
    position_offset: int
    max_input_length: int
    pad_token_id: int
    normalize: bool
    do_lower_case: bool
    dense_modules: tuple[DenseModule, ...]
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    dtype: str
    labels: tuple[str, ...] = ()
    score_activation: ScoreActivation | None = None
    relevance_label: int | None = None
    rerank_template: str | None = None
    takes_token_type_ids: bool = False
    adapter: str | None = None
