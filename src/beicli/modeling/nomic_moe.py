"""NomicBERT with a plain feed-forward or a mixture of experts; importing registers its classes.

Embeddings, rotary positions, norms and heads are those of transformers' `nomic_bert`, which knows
neither experts nor biases.
Source: Nussbaum and Duderstadt, 2025, "Training Sparse Mixture Of Experts Text Embedding Models";
`backends/candle/src/models/nomic.rs` of text-embeddings-inference.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    NomicBertConfig,
    NomicBertForMaskedLM,
    NomicBertForSequenceClassification,
    NomicBertForTokenClassification,
    NomicBertModel,
)
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, PrefixChange, WeightConverter, WeightRenaming
from transformers.models.nomic_bert.modeling_nomic_bert import NomicBertAttention, NomicBertLayer


@strict
class NomicBertMoeConfig(NomicBertConfig):
    """NomicBERT's configuration, with experts in every `moe_every_n_layers`th layer."""

    model_type = "nomic_bert_moe"

    qkv_proj_bias: bool = True
    mlp_fc1_bias: bool = True
    mlp_fc2_bias: bool = True
    moe_every_n_layers: int | None = 0
    num_experts: int | None = 0
    num_experts_per_tok: int | None = 0


class NomicBertMoeAttention(NomicBertAttention):
    """Transformers' attention, with biases."""

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__(config)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            size = config.hidden_size
            setattr(self, name, nn.Linear(size, size, bias=config.qkv_proj_bias))


class NomicBertPlainMLP(nn.Module):
    """Two linear layers, of the layers without experts."""

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.fc1 = nn.Linear(size, inner, bias=config.mlp_fc1_bias)
        self.fc2 = nn.Linear(inner, size, bias=config.mlp_fc2_bias)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc2(self.act(self.fc1(hidden)))
        return found


class NomicBertRouter(nn.Module):
    """Chooses experts by their softmax over all; the chosen ones' weights keep a sum below 1."""

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__()
        self.num_chosen = config.num_experts_per_tok
        self.layer = nn.Linear(config.hidden_size, config.num_experts, bias=False)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[num_tokens, hidden_size] -> weights and experts, both [num_tokens, num_chosen]."""
        weights = self.layer(tokens).softmax(dim=-1, dtype=torch.float32)
        chosen, experts = torch.topk(weights, self.num_chosen, dim=-1)
        return chosen.to(tokens.dtype), experts


class NomicBertExpertWeights(nn.Module):
    """All experts' two matrices, one below the other; both are [inner, hidden_size] each."""

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__()
        shape = (config.num_experts * config.intermediate_size, config.hidden_size)
        self.w1 = nn.Parameter(torch.zeros(shape))
        self.w2 = nn.Parameter(torch.zeros(shape))


class NomicBertExperts(nn.Module):
    """The experts, each computed on the tokens that chose it, and the bias they share.

    Compiled, 2 of 8 experts take under three times as long as one feed-forward of their width.
    """

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.mlp = NomicBertExpertWeights(config)
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.act = ACT2FN[config.hidden_act]

    def forward(
        self, tokens: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        matrices = zip(
            self.mlp.w1.chunk(self.num_experts), self.mlp.w2.chunk(self.num_experts), strict=True
        )
        total = self.bias.expand_as(tokens).clone()
        for expert, (up, down) in enumerate(matrices):
            is_chosen = chosen == expert
            # No token may have chosen it; everything below is then empty, in OpenVINO too.
            rows = is_chosen.any(dim=-1).nonzero().squeeze(-1)
            share = (weights * is_chosen).sum(dim=-1, keepdim=True)
            found = self.act(tokens.index_select(0, rows) @ up.T) @ down
            total = total.index_add(0, rows, found * share.index_select(0, rows))
        return total


class NomicBertMoeMLP(nn.Module):
    """Router and experts in place of a feed-forward."""

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__()
        self.router = NomicBertRouter(config)
        self.experts = NomicBertExperts(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tokens = hidden.flatten(0, 1)
        found: torch.Tensor = self.experts(tokens, *self.router(tokens))
        return found.view_as(hidden)


class NomicBertMoeLayer(NomicBertLayer):
    """Transformers' layer, with these attentions and feed-forwards."""

    def __init__(self, config: NomicBertMoeConfig, index: int) -> None:
        super().__init__(config)
        self.self_attn = NomicBertMoeAttention(config)
        every = config.moe_every_n_layers or 0
        # With 1, theirs has no experts at all: nothing leaves a remainder of 1.
        has_experts = every > 0 and index % every == 1
        self.mlp = NomicBertMoeMLP(config) if has_experts else NomicBertPlainMLP(config)


class NomicBertMoeModel(NomicBertModel):
    """The encoder."""

    config_class = NomicBertMoeConfig

    def __init__(self, config: NomicBertMoeConfig, *, add_pooling_layer: bool = False) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        indices = range(config.num_hidden_layers)
        self.layers = nn.ModuleList([NomicBertMoeLayer(config, index) for index in indices])
        self.post_init()


class NomicBertMoeForMaskedLM(NomicBertForMaskedLM):
    """With the language-modelling head."""

    config_class = NomicBertMoeConfig

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__(config)
        self.nomic_bert = NomicBertMoeModel(config)
        self.post_init()


class NomicBertMoeForSequenceClassification(NomicBertForSequenceClassification):
    """With a pooler and a classifier."""

    config_class = NomicBertMoeConfig

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__(config)
        self.nomic_bert = NomicBertMoeModel(config, add_pooling_layer=True)
        self.post_init()


class NomicBertMoeForTokenClassification(NomicBertForTokenClassification):
    """With a classifier of every token."""

    config_class = NomicBertMoeConfig

    def __init__(self, config: NomicBertMoeConfig) -> None:
        super().__init__(config)
        self.nomic_bert = NomicBertMoeModel(config)
        self.post_init()


register_checkpoint_conversion_mapping(
    NomicBertMoeConfig.model_type,
    [
        PrefixChange(prefix_to_remove="bert"),
        WeightRenaming(r"encoder.layers", r"layers"),
        WeightRenaming(r"emb_ln", r"embeddings.LayerNorm"),
        WeightRenaming(r"attn.out_proj", r"self_attn.o_proj"),
        WeightRenaming(r"norm1", r"post_attention_layernorm"),
        WeightRenaming(r"norm2", r"post_mlp_layernorm"),
        # Transformers ties the two, and saves the other.
        WeightRenaming(r"cls.predictions.decoder.bias", r"cls.predictions.bias"),
        WeightConverter(
            source_patterns=["attn.Wqkv"],
            target_patterns=["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            operations=[Chunk(dim=0)],
        ),
    ],
    overwrite=True,
)
AutoConfig.register(NomicBertMoeConfig.model_type, NomicBertMoeConfig)
AutoModel.register(NomicBertMoeConfig, NomicBertMoeModel)
AutoModelForMaskedLM.register(NomicBertMoeConfig, NomicBertMoeForMaskedLM)
AutoModelForSequenceClassification.register(
    NomicBertMoeConfig, NomicBertMoeForSequenceClassification
)
AutoModelForTokenClassification.register(NomicBertMoeConfig, NomicBertMoeForTokenClassification)
