"""Nomic's configurations, as published, in the keys of the classes that compute them."""

from typing import Any

import pytest

from beicli.errors import CheckpointError, UnsupportedModelError
from beicli.model.remote_code import native_config
from beicli.model.remote_code.nomic import translate


def gated(**more: Any) -> dict[str, Any]:
    """Return the `config.json` of nomic-embed-text-v1.5, but for what `more` says."""
    return {
        "activation_function": "swiglu",
        "architectures": ["NomicBertModel"],
        "attn_pdrop": 0.0,
        "auto_map": {
            "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"
        },
        "causal": False,
        "embd_pdrop": 0.0,
        "layer_norm_epsilon": 1e-12,
        "max_trained_positions": 2048,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "model_type": "nomic_bert",
        "n_embd": 768,
        "n_head": 12,
        "n_inner": 3072,
        "n_layer": 12,
        "n_positions": 8192,
        "pad_vocab_size_multiple": 64,
        "parallel_block": False,
        "prenorm": False,
        "qkv_proj_bias": False,
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "use_rms_norm": False,
        "vocab_size": 30528,
    } | more


def with_experts(**more: Any) -> dict[str, Any]:
    """Return the `config.json` of nomic-embed-text-v2-moe, but for what `more` says."""
    return (
        gated(
            activation_function="gelu",
            add_pooling_layer=False,
            expert_choice_router=False,
            ffn_div=1,
            layer_norm_epsilon=1e-05,
            mlp_fc1_bias=True,
            mlp_fc2_bias=True,
            moe_every_n_layers=2,
            moe_impl="megablocks",
            moe_normalize_expert_weights=False,
            moe_resid_pdrop=0.0,
            moe_top_k=2,
            n_positions=2048,
            num_experts=8,
            num_shared_experts=0,
            pad_token_id=1,
            qkv_proj_bias=True,
            rotary_emb_base=10000,
            type_vocab_size=1,
            use_rms_norm=None,
            vocab_size=250048,
        )
        | more
    )


def test_a_gated_model_is_transformers_own() -> None:
    found = native_config(gated())

    assert found["model_type"] == "nomic_bert"
    assert found["architectures"] == ["NomicBertModel"]
    assert (found["hidden_size"], found["num_hidden_layers"]) == (768, 12)
    assert (found["num_attention_heads"], found["head_dim"]) == (12, 64)
    assert (found["intermediate_size"], found["hidden_act"]) == (3072, "silu")
    assert found["layer_norm_eps"] == 1e-12
    assert found["rope_parameters"] == {"rope_type": "default", "rope_theta": 1000.0}
    assert found["vocab_size"] == 30528


@pytest.mark.parametrize(("name", "act"), [("geglu", "gelu"), ("glu", "sigmoid")])
def test_other_gates_have_their_own_functions(name: str, act: str) -> None:
    found = native_config(gated(activation_function=name))

    assert found["hidden_act"] == act


def test_a_model_with_experts_is_ours() -> None:
    found = native_config(with_experts())

    assert found["model_type"] == "nomic_bert_moe"
    assert found["architectures"] == ["NomicBertMoeModel"]
    assert (found["num_experts"], found["num_experts_per_tok"]) == (8, 2)
    assert found["moe_every_n_layers"] == 2
    assert found["intermediate_size"] == 3072
    assert found["rope_parameters"]["rope_theta"] == 10_000.0
    assert found["pad_token_id"] == 1


def test_without_scaling_every_stated_position_counts() -> None:
    assert native_config(gated())["max_position_embeddings"] == 8192


def test_with_scaling_only_positions_that_were_trained_on_count() -> None:
    found = native_config(gated(rotary_scaling_factor=2.0))

    assert found["max_position_embeddings"] == 2048


def test_keys_of_transformers_do_not_replace_nomics() -> None:
    both = {
        **gated(),
        "max_position_embeddings": 2048,
        "hidden_size": 32,
        "rope_parameters": {"rope_theta": 5.0},
    }

    found = native_config(both)

    assert found["max_position_embeddings"] == 8192
    assert found["hidden_size"] == 768
    assert found["rope_parameters"]["rope_theta"] == 1000.0


def test_no_stated_position_means_2048() -> None:
    assert native_config(gated(n_positions=0))["max_position_embeddings"] == 2048


def test_the_vocabulary_is_padded_as_their_code_pads_it() -> None:
    assert native_config(gated(vocab_size=30522))["vocab_size"] == 30528


def test_an_unstated_inner_size_follows_from_the_feed_forward() -> None:
    assert native_config(gated(n_inner=None))["intermediate_size"] == 2048
    assert native_config(gated(n_inner=3000))["intermediate_size"] == 3072
    assert native_config(with_experts(n_inner=None))["intermediate_size"] == 3072
    assert native_config(with_experts(n_inner=3000))["intermediate_size"] == 3000


def test_a_language_model_with_experts_has_the_name_of_ours() -> None:
    found = native_config(with_experts(architectures=["NomicBertForPreTraining"]))

    assert found["architectures"] == ["NomicBertMoeForMaskedLM"]


@pytest.mark.parametrize(
    "values", [{"model_type": "nomic_bert", "hidden_size": 768}, {"model_type": "bert"}]
)
def test_other_models_are_left_alone(values: dict[str, Any]) -> None:
    assert translate(values) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prenorm", True),
        ("parallel_block", True),
        ("causal", True),
        ("use_rms_norm", True),
        ("rotary_emb_fraction", 0.5),
        ("rotary_emb_interleaved", True),
        ("rotary_emb_scale_base", 512),
        ("num_heads_kv", 4),
        ("activation_function", "gelu_new"),
        ("type_vocab_size", 0),
        ("qkv_proj_bias", True),
        ("mlp_fc1_bias", True),
        ("mlp_fc2_bias", True),
        ("moe_every_n_layers", 2),
    ],
)
def test_what_is_not_computed_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"`{key}: {value}`"):
        translate(gated(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("moe_normalize_expert_weights", True),
        ("expert_choice_router", True),
        ("num_shared_experts", 1),
        ("ffn_div", 2),
    ],
)
def test_other_kinds_of_experts_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"`{key}: {value}`"):
        translate(with_experts(**{key: value}))


def test_a_gated_model_with_a_head_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="NomicBertForSequenceClassification"):
        translate(gated(architectures=["NomicBertForSequenceClassification"]))


@pytest.mark.parametrize("key", ["n_embd", "n_head", "n_positions", "vocab_size"])
def test_a_size_that_is_no_number_is_named(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"`{key}`"):
        translate(gated(**{key: "many"}))
