"""Every architecture whose numbers are compared with transformers', each with its heads.

Sizes are tiny. Windows of sliding attention are short, so that short texts reach past them, and
weights are large enough for attention to matter. `docs/reference/models.md` is made of this table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = 48
_SLIDING_WINDOW = 8


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model type of transformers.

    prefix: of its classes, such as `Bert`. config: over the sizes below. has_offset: positions are
    counted from the padding id, 1. heads: endings of its classes; pooling is that of embeddings.
    """

    prefix: str
    config: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "mean"
    has_offset: bool = False
    heads: tuple[str, ...] = ("Model", "ForSequenceClassification", "ForTokenClassification")
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.prefix


_ENCODER: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
_DECODER: Mapping[str, Any] = _ENCODER | {"num_key_value_heads": 2, "head_dim": 8}
_GEMMA: Mapping[str, Any] = _DECODER | {
    "query_pre_attn_scalar": 8,
    "sliding_window": _SLIDING_WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
_DISENTANGLED: Mapping[str, Any] = _ENCODER | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
_WITH_LANGUAGE_MODEL = (*Architecture("").heads, "ForMaskedLM")
_CAUSAL_HEADS = ("Model", "ForSequenceClassification")


def _encoder(prefix: str, *, has_offset: bool = False, **config: Any) -> Architecture:
    return Architecture(
        prefix, _ENCODER | config, has_offset=has_offset, heads=_WITH_LANGUAGE_MODEL
    )


def _decoder(prefix: str, base: Mapping[str, Any] = _DECODER, **config: Any) -> Architecture:
    return Architecture(prefix, base | config, pooling="lasttoken", heads=_CAUSAL_HEADS)


def _bidirectional(prefix: str, base: Mapping[str, Any] = _DECODER, **config: Any) -> Architecture:
    """A decoder whose attention looks both ways, as its configuration says."""
    return Architecture(prefix, base | config, heads=_CAUSAL_HEADS, name=f"{prefix}-bidirectional")


ARCHITECTURES = (
    _encoder("Bert"),
    _encoder("Roberta", has_offset=True),
    _encoder("XLMRoberta", has_offset=True),
    _encoder("Camembert", has_offset=True),
    Architecture(
        "DistilBert",
        {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "initializer_range": 0.2},
        heads=_WITH_LANGUAGE_MODEL,
    ),
    _encoder("MPNet", has_offset=True),
    _encoder("Electra", embedding_size=16),
    _encoder("Albert", embedding_size=16),
    Architecture("Deberta", _DISENTANGLED),
    Architecture(
        "DebertaV2",
        _DISENTANGLED
        | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    ),
    _encoder("ModernBert", local_attention=2 * _SLIDING_WINDOW),
    _encoder("NomicBert"),
    _encoder("Gte"),
    _encoder("JinaEmbeddingsV3"),
    Architecture("EuroBert", _DECODER),
    _decoder("Llama"),
    _decoder("Mistral", sliding_window=_SLIDING_WINDOW),
    _decoder("Qwen2"),
    _decoder("Qwen3"),
    _decoder("Gemma2", _GEMMA),
    _decoder("Gemma3Text", _GEMMA),
    _bidirectional("Llama", is_causal=False),
    _bidirectional("Mistral", is_causal=False, sliding_window=_SLIDING_WINDOW),
    _bidirectional("Qwen2", is_causal=False),
    _bidirectional("Qwen3", is_causal=False),
    _bidirectional("Gemma3Text", _GEMMA, use_bidirectional_attention=True),
)


def cases() -> Iterator[tuple[Architecture, str]]:
    """Yield every architecture with every head of its own."""
    for architecture in ARCHITECTURES:
        for head in architecture.heads:
            yield architecture, head
