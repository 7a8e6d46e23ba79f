"""What a checkpoint is: the facts its files state, and nothing of how it will run."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What the model answers."""

    EMBEDDING = "embedding"


class Pooling(StrEnum):
    """How token vectors become one vector."""

    CLS = "cls"
    MEAN = "mean"
    LAST_TOKEN = "last_token"


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
    embedding_dimension: of what comes out, after Dense modules.
    max_position_embeddings: rows of the position table, as `config.json` states them.
    position_offset: rows a RoBERTa-like model never uses: its padding id + 1; else 0.
    max_input_length: tokens an input may have, special tokens included.
    normalize: whether the checkpoint's own recipe ends in unit length.
    do_lower_case: whether texts are lowercased before tokenising.
    prompts: named texts to put before an input; default_prompt_name is used when none is asked for.
    dtype: of the stored weights, such as `float32`.
    """

    architecture: str
    model_type: str
    task: Task
    pooling: Pooling
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
