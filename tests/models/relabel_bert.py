"""BERT's trained weights as RoBERTa and XLM-RoBERTa: another code path, the same numbers.

Each test model made here must give the vectors of the model it was made from.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tests.models.checkpoint import (
    CONFIG_FILE_NAME,
    Float32,
    Weights,
    copy_companions,
    read_json,
    read_weights,
    write_json,
    write_weights,
)

# BERT's masked-language head in RoBERTa's names; the first prefix that fits is replaced.
_ROBERTA_PREFIXES = (
    ("bert.", "roberta."),
    ("cls.predictions.transform.dense.", "lm_head.dense."),
    ("cls.predictions.transform.LayerNorm.", "lm_head.layer_norm."),
    ("cls.predictions.decoder.", "lm_head.decoder."),
    ("cls.predictions.bias", "lm_head.bias"),
)


def write_roberta(sources: Mapping[str, Path], output: Path) -> None:
    _write_roberta_family(sources, output, model_type="roberta", class_prefix="Roberta")


def write_xlm_roberta(sources: Mapping[str, Path], output: Path) -> None:
    _write_roberta_family(sources, output, model_type="xlm-roberta", class_prefix="XLMRoberta")


def _write_roberta_family(
    sources: Mapping[str, Path], output: Path, *, model_type: str, class_prefix: str
) -> None:
    """RoBERTa is BERT with its positions counted from the pad id + 1 and one token type."""
    (source,) = sources.values()
    copy_companions(source, output)
    config = read_json(source / CONFIG_FILE_NAME)
    num_extra_rows = config["pad_token_id"] + 1
    config["model_type"] = model_type
    config["architectures"] = [
        name.replace("Bert", class_prefix) for name in config["architectures"]
    ]
    config["max_position_embeddings"] += num_extra_rows
    config["type_vocab_size"] = 1
    write_json(output / CONFIG_FILE_NAME, config)
    weights = roberta_weights(read_weights(source), num_extra_rows=num_extra_rows)
    write_weights(output, weights)


def roberta_weights(weights: Weights, *, num_extra_rows: int) -> dict[str, Float32]:
    """BERT's weights in RoBERTa's names; position vectors move down by `num_extra_rows` rows."""
    relabelled = {}
    for name, weight in weights.items():
        # Buffers of older checkpoints; RoBERTa's would have another length.
        if name.endswith("position_ids"):
            continue
        kept = weight
        if name.endswith("position_embeddings.weight"):
            kept = np.pad(weight, ((num_extra_rows, 0), (0, 0)))
        elif name.endswith("token_type_embeddings.weight"):
            kept = weight[:1]
        relabelled[_roberta_name(name)] = kept
    return relabelled


def _roberta_name(name: str) -> str:
    # Checkpoints converted from TensorFlow keep its names for a layer norm's weight and bias.
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    for bert_prefix, roberta_prefix in _ROBERTA_PREFIXES:
        if name.startswith(bert_prefix):
            return roberta_prefix + name.removeprefix(bert_prefix)
    return name
