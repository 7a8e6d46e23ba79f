"""Nomic's text models, whose `config.json` has the keys of GPT-2: v1, v1.5, and v2 with experts.

The gated ones are transformers' `nomic_bert`; those with experts or a plain feed-forward are ours.
Source: `config.json` of nomic-ai/nomic-embed-text-v1, -v1.5 and -v2-moe; `nomic.rs` of
text-embeddings-inference.
"""

from collections.abc import Mapping
from typing import Any

from beicli.errors import CheckpointError
from beicli.model.remote_code.keys import demand, renamed

_GATES = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid"}
_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "layer_norm_epsilon": "layer_norm_eps",
    "moe_top_k": "num_experts_per_tok",
}
# What their class takes when the file does not say.
_DEFAULTS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_positions": 1024,
    "max_trained_positions": 2048,
    "rotary_emb_base": 10_000.0,
    "rotary_emb_fraction": 0.0,
    "qkv_proj_bias": True,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
    "type_vocab_size": 2,
}
# Their gated layers are no narrower than the next multiple of this.
_GATED_MULTIPLE = 256


def translate(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the configuration for transformers' `nomic_bert`, or `modeling/nomic_moe.py`."""
    if values.get("model_type") != "nomic_bert" or "n_embd" not in values:
        return None
    stated: dict[str, Any] = {**_DEFAULTS, **values}
    _check_layout(stated)
    is_gated = stated["activation_function"] in _GATES
    specific = _gated(stated) if is_gated else _ungated(stated)
    # Some files have transformers' keys too; those that follow from Nomic's are made anew.
    kept = {key: value for key, value in stated.items() if key not in _NAMES.values()}
    return renamed(kept, _NAMES) | {
        "vocab_size": _padded(
            _count(stated, "vocab_size"), stated.get("pad_vocab_size_multiple") or 1
        ),
        "max_position_embeddings": _positions(stated),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(stated["rotary_emb_base"]),
        },
        "head_dim": _count(stated, "n_embd") // _count(stated, "n_head"),
        **specific,
    }


def _check_layout(stated: Mapping[str, Any]) -> None:
    demand(
        stated,
        prenorm=False,
        parallel_block=False,
        causal=False,
        use_rms_norm=(False, None),
        norm_mlp=False,
        rotary_emb_fraction=1.0,
        rotary_emb_interleaved=False,
        rotary_emb_scale_base=None,
        rotary_head_dim=False,
        num_heads_kv=(None, stated.get("n_head")),
        activation_function=(*_GATES, "gelu"),
    )
    if stated["type_vocab_size"] < 1:
        demand(stated, type_vocab_size=(1, 2))


def _gated(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers' class needs: it has no biases, and no experts."""
    demand(
        stated,
        qkv_proj_bias=False,
        mlp_fc1_bias=False,
        mlp_fc2_bias=False,
        moe_every_n_layers=(0, None),
        architectures=["NomicBertModel"],
    )
    inner = stated.get("n_inner") or 8 * _count(stated, "n_embd") // 3
    return {
        "hidden_act": _GATES[stated["activation_function"]],
        "intermediate_size": _padded(inner, _GATED_MULTIPLE),
    }


def _ungated(stated: Mapping[str, Any]) -> dict[str, Any]:
    demand(
        stated,
        moe_normalize_expert_weights=(False, None),
        expert_choice_router=(False, None),
        num_shared_experts=(0, None),
        ffn_div=(1, None),
    )
    if stated.get("moe_every_n_layers"):
        _count(stated, "num_experts")
        _count(stated, "moe_top_k")
    names = [str(name) for name in stated.get("architectures") or []]
    return {
        "model_type": "nomic_bert_moe",
        "architectures": [_moe_name(name) for name in names],
        "hidden_act": "gelu",
        "intermediate_size": stated.get("n_inner") or 4 * _count(stated, "n_embd"),
    }


def _moe_name(name: str) -> str:
    return name.replace("ForPreTraining", "ForMaskedLM").replace("NomicBert", "NomicBertMoe")


def _positions(stated: Mapping[str, Any]) -> int:
    """Return how many tokens a text may have: with scaling, no more than were trained on.

    Past those every length has frequencies of its own, which one graph does not hold.
    """
    # Theirs takes 0 for "none stated".
    positions = _count(stated, "n_positions") if stated["n_positions"] else 2048
    if not stated.get("rotary_scaling_factor"):
        return positions
    return min(positions, _count(stated, "max_trained_positions"))


def _count(stated: Mapping[str, Any], key: str) -> int:
    value = stated.get(key)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"`{key}` in `config.json` is {value}; wanted is a whole number")
    return value


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
