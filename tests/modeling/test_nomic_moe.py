"""Nomic's models from original checkpoints: with experts, plain, and gated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.builder.tiny_models import vocab_size
from tests.modeling.original_checkpoints import (
    HIDDEN_SIZE,
    WINDOW,
    Array,
    Tensors,
    assert_computes,
    gelu,
    layer_norm,
    linear,
    linear_shapes,
    norm_shapes,
    random_tensors,
    save_original,
    softmax,
)

from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.nomic_moe import NomicBertMoeModel

HEADS = 3
HEAD_SIZE = HIDDEN_SIZE // HEADS
INNER = 20
GATED_INNER = 256
LAYERS = 4
EXPERTS = 5
CHOSEN = 2
EPSILON = 1e-5
BASE = 1000.0
MULTIPLE = 64
PADDED_VOCABULARY = -(-vocab_size() // MULTIPLE) * MULTIPLE


def config(architecture: str = "NomicBertModel", **more: Any) -> dict[str, Any]:
    """Return `config.json` as published for the model with experts, in other sizes."""
    return {
        "activation_function": "gelu",
        "add_pooling_layer": False,
        "architectures": [architecture],
        "attn_pdrop": 0.0,
        "auto_map": {
            "AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
            "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel",
        },
        "bos_token_id": None,
        "causal": False,
        "dense_seq_output": True,
        "embd_pdrop": 0.1,
        "eos_token_id": None,
        "expert_choice_router": False,
        "ffn_div": 1,
        "fused_bias_fc": True,
        "fused_dropout_add_ln": True,
        "initializer_range": 0.02,
        "layer_norm_epsilon": EPSILON,
        "max_trained_positions": WINDOW,
        "mlp_fc1_bias": True,
        "mlp_fc2_bias": True,
        "model_type": "nomic_bert",
        "moe_every_n_layers": 2,
        "moe_impl": "megablocks",
        "moe_normalize_expert_weights": False,
        "moe_resid_pdrop": 0.0,
        "moe_top_k": CHOSEN,
        "n_embd": HIDDEN_SIZE,
        "n_head": HEADS,
        "n_inner": INNER,
        "n_layer": LAYERS,
        "n_positions": WINDOW,
        "num_experts": EXPERTS,
        "num_shared_experts": 0,
        "pad_token_id": 0,
        "pad_vocab_size_multiple": MULTIPLE,
        "parallel_block": False,
        "parallel_block_tied_norm": False,
        "prenorm": False,
        "qkv_proj_bias": True,
        "reorder_and_upcast_attn": False,
        "resid_pdrop": 0.0,
        "rotary_emb_base": BASE,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "scale_attn_weights": True,
        "torch_dtype": "float32",
        "transformers_version": "4.44.2",
        "type_vocab_size": 1,
        "use_cache": True,
        "use_flash_attn": True,
        "use_rms_norm": None,
        "use_xentropy": True,
        "vocab_size": vocab_size(),
    } | more


GATED = {
    "activation_function": "swiglu",
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "moe_every_n_layers": 0,
    "num_experts": 0,
    "qkv_proj_bias": False,
    "type_vocab_size": 2,
}


def shapes(values: dict[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the published tensors."""
    types = values["type_vocab_size"]
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (PADDED_VOCABULARY, HIDDEN_SIZE),
        "embeddings.token_type_embeddings.weight": (types, HIDDEN_SIZE),
        **norm_shapes("emb_ln"),
    }
    for index in range(LAYERS):
        layer = f"encoder.layers.{index}"
        found |= norm_shapes(f"{layer}.norm1") | norm_shapes(f"{layer}.norm2")
        found |= linear_shapes(f"{layer}.attn.Wqkv", 3 * HIDDEN_SIZE, HIDDEN_SIZE)
        found |= linear_shapes(f"{layer}.attn.out_proj", HIDDEN_SIZE, HIDDEN_SIZE)
        if values["activation_function"] != "gelu":
            for name in ("fc11", "fc12"):
                found |= linear_shapes(f"{layer}.mlp.{name}", GATED_INNER, HIDDEN_SIZE)
            found |= linear_shapes(f"{layer}.mlp.fc2", HIDDEN_SIZE, GATED_INNER)
        elif values["moe_every_n_layers"] and index % 2 == 1:
            found[f"{layer}.mlp.router.layer.weight"] = (EXPERTS, HIDDEN_SIZE)
            found[f"{layer}.mlp.experts.mlp.w1"] = (EXPERTS * INNER, HIDDEN_SIZE)
            found[f"{layer}.mlp.experts.mlp.w2"] = (EXPERTS * INNER, HIDDEN_SIZE)
            found[f"{layer}.mlp.experts.bias"] = (HIDDEN_SIZE,)
        else:
            found |= linear_shapes(f"{layer}.mlp.fc1", INNER, HIDDEN_SIZE)
            found |= linear_shapes(f"{layer}.mlp.fc2", HIDDEN_SIZE, INNER)
    if not values["qkv_proj_bias"]:
        without = ("Wqkv.bias", "out_proj.bias", "fc11.bias", "fc12.bias", "fc2.bias")
        found = {name: shape for name, shape in found.items() if not name.endswith(without)}
    return {prefix + name: shape for name, shape in found.items()}


def encode(tensors: Tensors, ids: list[int], prefix: str = "", act: Any = None) -> Array:
    """Compute the hidden states of one text, [length, hidden_size]."""
    words = tensors[f"{prefix}embeddings.word_embeddings.weight"]
    types = tensors[f"{prefix}embeddings.token_type_embeddings.weight"]
    hidden = np.stack([words[token] + types[0] for token in ids])
    hidden = layer_norm(hidden, tensors, f"{prefix}emb_ln", EPSILON)
    for index in range(LAYERS):
        layer = f"{prefix}encoder.layers.{index}"
        hidden = layer_norm(
            hidden + attend(tensors, hidden, f"{layer}.attn"), tensors, f"{layer}.norm1", EPSILON
        )
        hidden = layer_norm(
            hidden + feed_forward(tensors, hidden, f"{layer}.mlp", act),
            tensors,
            f"{layer}.norm2",
            EPSILON,
        )
    return hidden


def attend(tensors: Tensors, hidden: Array, name: str) -> Array:
    """Attend head by head and token by token."""
    query, key, value = np.split(linear(hidden, tensors, f"{name}.Wqkv"), 3, axis=-1)
    found = np.zeros_like(hidden)
    for head in range(HEADS):
        part = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
        turned = [rotate(states[part], here) for here, states in enumerate(key)]
        for here in range(len(hidden)):
            asking = rotate(query[here, part], here)
            scores = np.array([asking @ other / np.sqrt(HEAD_SIZE) for other in turned])
            found[here, part] = softmax(scores) @ value[:, part]
    return linear(found, tensors, f"{name}.out_proj")


def rotate(states: Array, position: int) -> Array:
    """Turn each pair of a lower and an upper half by its own angle."""
    half = HEAD_SIZE // 2
    found = np.empty_like(states)
    for index in range(half):
        angle = position * BASE ** (-2.0 * index / HEAD_SIZE)
        low, high = states[index], states[index + half]
        found[index] = low * np.cos(angle) - high * np.sin(angle)
        found[index + half] = low * np.sin(angle) + high * np.cos(angle)
    return found


def feed_forward(tensors: Tensors, hidden: Array, name: str, act: Any) -> Array:
    if f"{name}.fc11.weight" in tensors:
        gate = act(linear(hidden, tensors, f"{name}.fc12"))
        return linear(linear(hidden, tensors, f"{name}.fc11") * gate, tensors, f"{name}.fc2")
    if f"{name}.fc1.weight" in tensors:
        return linear(gelu(linear(hidden, tensors, f"{name}.fc1")), tensors, f"{name}.fc2")
    return np.stack([mix(tensors, token, name) for token in hidden])


def mix(tensors: Tensors, token: Array, name: str) -> Array:
    """Add up what the two likeliest experts make of one token."""
    shares = softmax(tensors[f"{name}.router.layer.weight"] @ token)
    total = tensors[f"{name}.experts.bias"].copy()
    for expert in np.argsort(-shares)[:CHOSEN]:
        rows = slice(expert * INNER, (expert + 1) * INNER)
        inner = gelu(tensors[f"{name}.experts.mlp.w1"][rows] @ token)
        total += shares[expert] * (inner @ tensors[f"{name}.experts.mlp.w2"][rows])
    found: Array = total
    return found


def silu(states: Array) -> Array:
    return states / (1.0 + np.exp(-states))


def sigmoid(states: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-states))


def test_experts_compute_what_the_formulas_say(tmp_path: Path) -> None:
    tensors = random_tensors(shapes(config()))

    assert_computes(save_original(tmp_path, config(), tensors), tensors, encode)


def test_an_expert_that_no_token_chooses_changes_nothing(tmp_path: Path) -> None:
    tensors = random_tensors(shapes(config()))
    for index in (1, 3):
        # Every token prefers the others: the norms before leave the first feature large.
        norm = f"encoder.layers.{index}.norm1"
        tensors[f"{norm}.bias"][0] = 30.0
        tensors[f"encoder.layers.{index}.mlp.router.layer.weight"][2, 0] = -10.0

    assert_computes(save_original(tmp_path, config(), tensors), tensors, encode)


def test_without_experts_every_feed_forward_is_plain(tmp_path: Path) -> None:
    values = config(moe_every_n_layers=0)
    tensors = random_tensors(shapes(values))

    assert_computes(save_original(tmp_path, values, tensors), tensors, encode)


@pytest.mark.parametrize(("name", "act"), [("swiglu", silu), ("geglu", gelu), ("glu", sigmoid)])
def test_gated_layers_compute_what_the_formulas_say(name: str, act: Any, tmp_path: Path) -> None:
    values = config(**GATED) | {"activation_function": name}
    tensors = random_tensors(shapes(values))

    assert_computes(
        save_original(tmp_path, values, tensors),
        tensors,
        lambda tensors, ids: encode(tensors, ids, act=act),
    )


def test_a_classifier_scores_the_pooled_first_token(tmp_path: Path) -> None:
    values = config("NomicBertForSequenceClassification", id2label={"0": "no", "1": "yes"})
    head = linear_shapes("bert.pooler.dense", HIDDEN_SIZE, HIDDEN_SIZE)
    head |= linear_shapes("classifier", 2, HIDDEN_SIZE)
    tensors = random_tensors(shapes(values, "bert.") | head)

    def score(tensors: Tensors, ids: list[int]) -> Array:
        pooled = np.tanh(linear(encode(tensors, ids, "bert.")[0], tensors, "bert.pooler.dense"))
        return linear(pooled, tensors, "classifier")

    assert_computes(save_original(tmp_path, values, tensors), tensors, score)


def test_a_masked_language_model_gives_sparse_embeddings(tmp_path: Path) -> None:
    values = config("NomicBertForPreTraining")
    head = {
        **linear_shapes("cls.predictions.transform.dense", HIDDEN_SIZE, HIDDEN_SIZE),
        **norm_shapes("cls.predictions.transform.layer_norm"),
        "cls.predictions.decoder.bias": (PADDED_VOCABULARY,),
    }
    tensors = random_tensors(shapes(values, "bert.") | head)

    def weigh(tensors: Tensors, ids: list[int]) -> Array:
        transform = "cls.predictions.transform"
        inner = gelu(linear(encode(tensors, ids, "bert."), tensors, f"{transform}.dense"))
        inner = layer_norm(inner, tensors, f"{transform}.layer_norm", EPSILON)
        words = tensors["bert.embeddings.word_embeddings.weight"]
        logits = inner @ words.T + tensors["cls.predictions.decoder.bias"]
        found: Array = np.log1p(np.maximum(logits, 0.0)).max(axis=0)
        return found

    checkpoint = save_original(tmp_path, values, tensors)
    (checkpoint / "modules.json").unlink()

    assert_computes(checkpoint, tensors, weigh, pooling=Pooling.SPLADE)


def test_a_model_of_transformers_loads_under_its_original_names(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = transformers.NomicBertModel(
        transformers.NomicBertConfig(
            hidden_size=HIDDEN_SIZE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=GATED_INNER,
            vocab_size=PADDED_VOCABULARY,
            layer_norm_eps=EPSILON,
            initializer_range=0.2,
            rope_parameters={"rope_type": "default", "rope_theta": BASE},
        )
    ).eval()
    values = config(**GATED)
    checkpoint = save_original(tmp_path, values, original_tensors(model))
    ids = torch.arange(5, 5 + WINDOW)[None]

    loaded = load_module(checkpoint, inspect_checkpoint(checkpoint)).encoder

    assert not isinstance(loaded, NomicBertMoeModel)
    with torch.no_grad():
        found, wanted = (network(input_ids=ids)[0] for network in (loaded, model))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def original_tensors(model: transformers.NomicBertModel) -> dict[str, Array]:
    """Return the weights under the names of Nomic's own code."""
    weights = model.state_dict()
    names = {"post_attention_layernorm": "norm1", "post_mlp_layernorm": "norm2"}
    parts = {"mlp.up_proj": "mlp.fc11", "mlp.gate_proj": "mlp.fc12", "mlp.down_proj": "mlp.fc2"}
    found = {
        f"embeddings.{kind}_embeddings.weight": weights[f"embeddings.{kind}_embeddings.weight"]
        for kind in ("word", "token_type")
    }
    for end in ("weight", "bias"):
        found[f"emb_ln.{end}"] = weights[f"embeddings.LayerNorm.{end}"]
    for index in range(LAYERS):
        given, original = f"layers.{index}", f"encoder.layers.{index}"
        for name, other in names.items():
            for end in ("weight", "bias"):
                found[f"{original}.{other}.{end}"] = weights[f"{given}.{name}.{end}"]
        for name, other in parts.items():
            found[f"{original}.{other}.weight"] = weights[f"{given}.{name}.weight"]
        attention = [weights[f"{given}.self_attn.{part}_proj.weight"] for part in "qkv"]
        found[f"{original}.attn.Wqkv.weight"] = torch.cat(attention)
        found[f"{original}.attn.out_proj.weight"] = weights[f"{given}.self_attn.o_proj.weight"]
    return {name: tensor.double().numpy() for name, tensor in found.items()}
