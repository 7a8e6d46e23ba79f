"""Tiny checkpoints with seeded random weights, for architectures no package has trained ones of.

They cover loading, shapes and wiring; their vectors mean nothing. Windows are so short that
short texts reach past them, and no bias or norm keeps its neutral starting value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from tests.models.checkpoint import copy_tokenizer, write_pooling
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    NomicBertConfig,
    NomicBertModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)
from transformers.utils import logging

_SEED = 1
_WINDOW = 8
_MAX_LENGTH = 512
# 1 / sqrt(hidden_size): attention and activations are far from uniform, yet stay bounded.
_INITIALIZER_RANGE = 0.125
_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": _INITIALIZER_RANGE,
    "max_position_embeddings": _MAX_LENGTH,
}
_DECODER_SIZES: Mapping[str, Any] = {
    **_SIZES,
    "intermediate_size": 128,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
# The ids of each tokenizer.
_MINILM_IDS: Mapping[str, Any] = {
    "vocab_size": 30522,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
}
_XLMR_IDS: Mapping[str, Any] = {
    "vocab_size": 47284,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
# More rows than the tokenizer has tokens, as in the published models.
_QWEN_IDS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "pad_token_id": 151643,
    "bos_token_id": None,
    "eos_token_id": 151645,
}
_MODERNBERT: Mapping[str, Any] = {
    **_SIZES,
    **_MINILM_IDS,
    "cls_token_id": 101,
    "sep_token_id": 102,
    "intermediate_size": 96,
    "local_attention": 2 * _WINDOW,
}


def write_modernbert_reranker(sources: Mapping[str, Path], output: Path) -> None:
    config = ModernBertConfig(**_MODERNBERT, num_labels=1, classifier_pooling="mean")
    _write(ModernBertForSequenceClassification, config, sources, output)


def write_modernbert_ner(sources: Mapping[str, Path], output: Path) -> None:
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    config = ModernBertConfig(
        **_MODERNBERT,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    _write(ModernBertForTokenClassification, config, sources, output)


def write_nomic(sources: Mapping[str, Path], output: Path) -> None:
    config = NomicBertConfig(**_SIZES, **_MINILM_IDS, intermediate_size=128)
    _write(NomicBertModel, config, sources, output)
    _write_pooling(output, "mean_tokens")


def write_jina_v3(sources: Mapping[str, Path], output: Path) -> None:
    config = JinaEmbeddingsV3Config(**_SIZES, **_XLMR_IDS, intermediate_size=128)
    _write(JinaEmbeddingsV3Model, config, sources, output)
    _write_pooling(output, "mean_tokens")


def write_llama(sources: Mapping[str, Path], output: Path) -> None:
    _write(LlamaModel, LlamaConfig(**_DECODER_SIZES, **_XLMR_IDS), sources, output)
    _write_pooling(output, "lasttoken")


def write_mistral(sources: Mapping[str, Path], output: Path) -> None:
    config = MistralConfig(**_DECODER_SIZES, **_XLMR_IDS, sliding_window=_WINDOW)
    _write(MistralModel, config, sources, output)
    _write_pooling(output, "lasttoken")


def write_qwen2(sources: Mapping[str, Path], output: Path) -> None:
    _write(Qwen2Model, Qwen2Config(**_DECODER_SIZES, **_QWEN_IDS), sources, output)
    _write_pooling(output, "lasttoken")


def write_qwen3(sources: Mapping[str, Path], output: Path) -> None:
    _write(Qwen3Model, Qwen3Config(**_DECODER_SIZES, **_QWEN_IDS), sources, output)
    _write_pooling(output, "lasttoken")


def write_embeddinggemma_like(sources: Mapping[str, Path], output: Path) -> None:
    config = Gemma3TextConfig(
        **{**_DECODER_SIZES, "num_key_value_heads": 1},
        **_XLMR_IDS,
        query_pre_attn_scalar=16,
        sliding_window=_WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        use_bidirectional_attention=True,
    )
    _write(Gemma3TextModel, config, sources, output)
    _write_pooling(output, "mean_tokens")


def _write(
    architecture: type[PreTrainedModel], config: Any, sources: Mapping[str, Path], output: Path
) -> None:
    (tokenizer,) = sources.values()
    torch.manual_seed(_SEED)
    model = architecture(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    logging.disable_progress_bar()
    model.save_pretrained(output)
    copy_tokenizer(tokenizer, output)


def _write_pooling(output: Path, mode: Literal["mean_tokens", "lasttoken"]) -> None:
    write_pooling(output, mode=mode, hidden_size=_SIZES["hidden_size"], max_length=_MAX_LENGTH)
