"""Random models of a few thousand weights, saved as sentence-transformers saves real ones.

Their vectors mean nothing, but they differ from text to text, and every step of a build runs on
them in seconds.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import normalizers, pre_tokenizers, processors

from beicli.builder.texts import REFERENCE_TEXTS

MAX_POSITIONS = 64
# A prompt is hundreds of characters, and the tokenizer below makes a token of each.
MAX_PROMPT_POSITIONS = 1024
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_DECODER_SIZES = _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}


@dataclass(frozen=True, slots=True)
class Dense:
    """A Dense module to put behind the pooling, with random weights."""

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "torch.nn.modules.activation.Tanh"


def tiny_bert() -> transformers.PreTrainedModel:
    config = transformers.BertConfig(
        **_SIZES, vocab_size=vocab_size(), max_position_embeddings=MAX_POSITIONS
    )
    return _random(transformers.BertModel, config)


def tiny_roberta() -> transformers.PreTrainedModel:
    # The two positions that its padding id takes away come on top.
    config = transformers.RobertaConfig(
        **_SIZES, vocab_size=vocab_size(), max_position_embeddings=MAX_POSITIONS + 2
    )
    return _random(transformers.RobertaModel, config)


def tiny_mpnet() -> transformers.PreTrainedModel:
    config = transformers.MPNetConfig(
        **_SIZES, vocab_size=vocab_size(), max_position_embeddings=MAX_POSITIONS + 2
    )
    return _random(transformers.MPNetModel, config)


def tiny_qwen3() -> transformers.PreTrainedModel:
    config = transformers.Qwen3Config(
        **_DECODER_SIZES, vocab_size=vocab_size(), max_position_embeddings=MAX_POSITIONS
    )
    return _random(transformers.Qwen3Model, config)


def tiny_qwen3_moe() -> transformers.PreTrainedModel:
    """A mixture of experts, which torch computes and no export takes."""
    config = transformers.Qwen3MoeConfig(
        **_DECODER_SIZES,
        vocab_size=vocab_size(),
        max_position_embeddings=MAX_POSITIONS,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
    )
    return _random(transformers.Qwen3MoeModel, config)


def tiny_classifier(*labels: str, **config: Any) -> transformers.PreTrainedModel:
    """A BERT that tells the two texts of a pair apart by their token types."""
    return _random(transformers.BertForSequenceClassification, _bert_config(labels, **config))


def tiny_token_classifier(*labels: str) -> transformers.PreTrainedModel:
    return _random(transformers.BertForTokenClassification, _bert_config(labels))


def tiny_masked_lm() -> transformers.PreTrainedModel:
    return _random(transformers.BertForMaskedLM, _bert_config(()))


def tiny_qwen3_reranker(*labels: str) -> transformers.PreTrainedModel:
    """A causal classifier; like many of its kind it states no padding id."""
    config = transformers.Qwen3Config(
        **_DECODER_SIZES | {"pad_token_id": None},
        **_labels(labels),
        vocab_size=vocab_size(),
        max_position_embeddings=MAX_PROMPT_POSITIONS,
    )
    return _random(transformers.Qwen3ForSequenceClassification, config)


def save_model(
    directory: Path, model: transformers.PreTrainedModel, **tokenizer_config: Any
) -> Path:
    """Save weights, `config.json` and a tokenizer: all that a classifier or language model has."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(directory)
    _tokenizer().save(str(directory / "tokenizer.json"))
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.config.max_position_embeddings,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
        | tokenizer_config,
    )
    return directory


def save_splade(directory: Path) -> Path:
    """Save a SPLADE checkpoint of sentence-transformers."""
    save_model(directory, tiny_masked_lm())
    modules = ("MLMTransformer", "SpladePooling")
    _write_modules(directory, modules, package="sentence_transformers.sparse_encoder.models")
    _write_json(
        directory / "1_SpladePooling" / "config.json",
        {"pooling_strategy": "max", "activation_function": "relu"},
    )
    _write_json(
        directory / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None},
    )
    return directory


def save_checkpoint(
    directory: Path,
    encoder: transformers.PreTrainedModel,
    *,
    pooling: str = "mean",
    dense: tuple[Dense, ...] = (),
) -> Path:
    """Save a whole embedding checkpoint: tokenizer, encoder, pooling, Dense, unit length."""
    save_model(directory, encoder, model_max_length=MAX_POSITIONS)
    _write_modules(directory, ("Transformer", "Pooling", *(["Dense"] * len(dense)), "Normalize"))
    _write_json(
        directory / "1_Pooling" / "config.json",
        {"word_embedding_dimension": _SIZES["hidden_size"], "pooling_mode": pooling},
    )
    for index, module in enumerate(dense, start=2):
        _save_dense(directory / f"{index}_Dense", module)
    return directory


def vocab_size() -> int:
    return len(_vocabulary())


def _bert_config(labels: tuple[str, ...], **config: Any) -> transformers.BertConfig:
    return transformers.BertConfig(
        **_SIZES,
        **_labels(labels),
        **config,
        vocab_size=vocab_size(),
        max_position_embeddings=MAX_POSITIONS,
    )


def _labels(labels: tuple[str, ...]) -> dict[str, Any]:
    if not labels:
        return {}
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _random(
    kind: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig
) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        # Heads start near zero, where every score is the same.
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier.", "score.", "cls.")):
                parameter.normal_(std=0.3)
    return model


def _save_dense(directory: Path, dense: Dense) -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(dense.in_features, dense.out_features, bias=dense.bias)
    _write_json(
        directory / "config.json",
        {
            "in_features": dense.in_features,
            "out_features": dense.out_features,
            "bias": dense.bias,
            "activation_function": dense.activation,
        },
    )
    save_file(
        {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()},
        directory / "model.safetensors",
    )


@functools.cache
def _vocabulary() -> dict[str, int]:
    """Every character of the reference texts, at the start of a word and within one."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    texts = [normalizer.normalize_str(text) for text in REFERENCE_TEXTS]
    characters = sorted(set("".join(texts)) - {" "})
    pieces = [*_SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    return {piece: index for index, piece in enumerate(pieces)}


def _tokenizer() -> tokenizers.Tokenizer:
    vocabulary = _vocabulary()
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    return tokenizer


def _write_modules(
    directory: Path, modules: Sequence[str], *, package: str = "sentence_transformers.models"
) -> None:
    _write_json(
        directory / "modules.json",
        [
            {
                "idx": index,
                "name": str(index),
                "path": f"{index}_{kind}" if index else "",
                "type": f"{package}.{kind}",
            }
            for index, kind in enumerate(modules)
        ],
    )


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
