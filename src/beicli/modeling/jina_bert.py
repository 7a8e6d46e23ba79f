"""JinaBert: BERT with ALiBi instead of a table of positions; importing registers its classes.

Modules have the names of the published tensors, so weights load unchanged. Two layouts exist: the
common one, and that of the code model, which normalises queries and keys. Both are encoders.
Source: Günther et al., 2023, "Jina Embeddings 2"; `backends/candle/src/models/jina.rs` and
`jina_code.rs` of text-embeddings-inference.
"""

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bert.modeling_bert import (
    BertIntermediate,
    BertOutput,
    BertPooler,
    BertPreTrainedModel,
    BertSelfOutput,
)

_GATES = {"geglu": "gelu", "reglu": "relu"}


@strict
class JinaBertConfig(BertConfig):
    """BERT's configuration, with what Jina's code adds.

    feed_forward_type: `original`, `geglu` or `reglu`. has_query_key_norm: the code model's layout.
    """

    model_type = "jina_bert"

    feed_forward_type: str = "original"
    has_query_key_norm: bool = False


class JinaBertEmbeddings(nn.Module):
    """Words and token types; positions come in with attention."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        words = self.word_embeddings(input_ids)
        return self.LayerNorm(words + self.token_type_embeddings(token_type_ids))


class JinaBertSelfAttention(nn.Module):
    """Attention under a float mask that carries padding and ALiBi; norms span all heads at once."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.layer_norm_q: nn.Module = nn.Identity()
        self.layer_norm_k: nn.Module = nn.Identity()
        if config.has_query_key_norm:
            self.layer_norm_q = nn.LayerNorm(size, eps=config.layer_norm_eps)
            self.layer_norm_k = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query = self._split(self.layer_norm_q(self.query(hidden)))
        key = self._split(self.layer_norm_k(self.key(hidden)))
        value = self._split(self.value(hidden))
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return found.transpose(1, 2).flatten(2)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """[batch, length, hidden_size] -> [batch, heads, length, head_size]."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class JinaBertAttention(nn.Module):
    """Attention, its projection, and the norm of their sum with what came in."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.self = JinaBertSelfAttention(config)
        self.output = BertSelfOutput(config)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.output(self.self(hidden, mask), hidden)
        return found


class JinaBertGatedMLP(nn.Module):
    """The common layout's GLU: the first half is the gate, and the norm is in here."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.act = ACT2FN[_GATES[config.feed_forward_type]]
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = self.gated_layers(hidden).chunk(2, dim=-1)
        found: torch.Tensor = self.layernorm(self.wo(self.act(gate) * up) + hidden)
        return found


class JinaBertLayer(nn.Module):
    """A layer of the common layout; without a GLU it is BERT's."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.attention = JinaBertAttention(config)
        self.is_gated = config.feed_forward_type in _GATES
        if self.is_gated:
            self.mlp = JinaBertGatedMLP(config)
        else:
            self.intermediate = BertIntermediate(config)
            self.output = BertOutput(config)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.attention(hidden, mask)
        if self.is_gated:
            return self.mlp(hidden)
        return self.output(self.intermediate(hidden), hidden)


class JinaBertCodeMLP(nn.Module):
    """The code model's feed-forward; in its GLU the second half is the gate."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.is_gated = config.feed_forward_type in _GATES
        if self.is_gated:
            self.up_gated_layer = nn.Linear(
                config.hidden_size, 2 * config.intermediate_size, bias=False
            )
        else:
            self.up_layer = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act = ACT2FN[_GATES.get(config.feed_forward_type, config.hidden_act)]
        self.down_layer = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.is_gated:
            up, gate = self.up_gated_layer(hidden).chunk(2, dim=-1)
            inner = up * self.act(gate)
        else:
            inner = self.act(self.up_layer(hidden))
        found: torch.Tensor = self.down_layer(inner)
        return found


class JinaBertCodeLayer(nn.Module):
    """A layer of the code model: what comes in is added twice, within attention and after it."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.attention = JinaBertAttention(config)
        self.mlp = JinaBertCodeMLP(config)
        self.layer_norm_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.layer_norm_1(hidden + self.attention(hidden, mask))
        found: torch.Tensor = self.layer_norm_2(hidden + self.mlp(hidden))
        return found


class JinaBertEncoder(nn.Module):
    """The layers, under one mask."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        kind = JinaBertCodeLayer if config.has_query_key_norm else JinaBertLayer
        self.layer = nn.ModuleList([kind(config) for _ in range(config.num_hidden_layers)])

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            hidden = layer(hidden, mask)
        return hidden


class JinaBertModel(BertPreTrainedModel):
    """The encoder; gives the last hidden states, and what the pooler makes of the first token."""

    config: JinaBertConfig
    config_class = JinaBertConfig

    def __init__(self, config: JinaBertConfig, *, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = JinaBertEmbeddings(config)
        self.encoder = JinaBertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **_unused: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode texts, [batch, length] each; BERT's heads pass on more, all of it None."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.embeddings(input_ids, token_type_ids)
        mask = attention_bias(attention_mask, self.config.num_attention_heads, hidden.dtype)
        hidden = self.encoder(hidden, mask)
        pooled = self.pooler(hidden) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


class JinaBertForMaskedLM(BertForMaskedLM):
    """With BERT's language-modelling head."""

    config_class = JinaBertConfig

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        self.bert = JinaBertModel(config, add_pooling_layer=False)
        self.post_init()


class JinaBertForSequenceClassification(BertForSequenceClassification):
    """With BERT's pooler and classifier."""

    config_class = JinaBertConfig

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        self.bert = JinaBertModel(config)
        self.post_init()


class JinaBertForTokenClassification(BertForTokenClassification):
    """With a classifier of every token."""

    config_class = JinaBertConfig

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        self.bert = JinaBertModel(config, add_pooling_layer=False)
        self.post_init()


def attention_bias(
    attention_mask: torch.Tensor, num_heads: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return what every layer adds to its scores: -slope * distance, and nothing of padding.

    attention_mask: [batch, length]. Returns [batch, heads, length, length]: with ALiBi this much
    has to exist once, whatever the implementation, because the distance is taken both ways.
    """
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    distances = (positions[None, :] - positions[:, None]).abs().to(dtype)
    slopes = torch.tensor(alibi_slopes(num_heads), dtype=dtype, device=attention_mask.device)
    bias = -slopes[:, None, None] * distances
    is_padding = attention_mask[:, None, None, :] == 0
    return torch.where(is_padding, torch.finfo(dtype).min, bias)


def alibi_slopes(num_heads: int) -> list[float]:
    """Return one slope a head: 2^(-8/n), its square, and so on for n heads, a power of two.

    Other counts take the slopes of the power below, then every other one of the power above.
    Source: Press et al., 2021, "Train Short, Test Long".
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (index + 1) / power) for index in range(power)]
    if power < num_heads:
        slopes += alibi_slopes(2 * power)[0::2][: num_heads - power]
    return slopes


AutoConfig.register(JinaBertConfig.model_type, JinaBertConfig)
AutoModel.register(JinaBertConfig, JinaBertModel)
AutoModelForMaskedLM.register(JinaBertConfig, JinaBertForMaskedLM)
AutoModelForSequenceClassification.register(JinaBertConfig, JinaBertForSequenceClassification)
AutoModelForTokenClassification.register(JinaBertConfig, JinaBertForTokenClassification)
