"""Random models of a few thousand weights, saved as sentence-transformers saves real ones.

Their vectors mean nothing, but they differ from text to text, and every step of a build runs on
them in seconds.
"""

import functools
import json
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


def save_checkpoint(
    directory: Path,
    encoder: transformers.PreTrainedModel,
    *,
    pooling: str = "mean",
    dense: tuple[Dense, ...] = (),
) -> Path:
    """Save a whole embedding checkpoint: tokenizer, encoder, pooling, Dense, unit length."""
    transformers.utils.logging.disable_progress_bar()
    encoder.save_pretrained(directory)
    _tokenizer().save(str(directory / "tokenizer.json"))
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_POSITIONS,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    )
    modules = ["Transformer", "Pooling", *(["Dense"] * len(dense)), "Normalize"]
    _write_json(
        directory / "modules.json",
        [
            {
                "idx": index,
                "name": str(index),
                "path": f"{index}_{kind}" if index else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for index, kind in enumerate(modules)
        ],
    )
    _write_json(
        directory / "1_Pooling" / "config.json",
        {"word_embedding_dimension": _SIZES["hidden_size"], "pooling_mode": pooling},
    )
    for index, module in enumerate(dense, start=2):
        _save_dense(directory / f"{index}_Dense", module)
    return directory


def vocab_size() -> int:
    return len(_vocabulary())


def _random(
    kind: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig
) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return kind(config).eval()


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
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    return tokenizer


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
