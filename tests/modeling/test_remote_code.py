"""Checkpoints written for code of their own give the numbers of the class that loads them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.builder.tiny_models import MAX_POSITIONS, save_checkpoint, save_model, vocab_size

from beicli.errors import BuildError
from beicli.model.inspect import inspect_checkpoint
from beicli.model.spec import Pooling
from beicli.modeling.loading import load_module
from beicli.modeling.tasks import EmbeddingModule, TaskModule

TOLERANCE = 1e-5
SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
    "max_position_embeddings": MAX_POSITIONS,
}
LENGTHS = (1, 7, MAX_POSITIONS - 2)
ADAPTERS = ("retrieval.query", "retrieval.passage", "text-matching")
RANK = 4


def load(checkpoint: Path, **asked: Any) -> TaskModule:
    return load_module(checkpoint, inspect_checkpoint(checkpoint, **asked))


def random_model(model_class: Any, **config: Any) -> Any:
    torch.manual_seed(3)
    given = SIZES | {"vocab_size": vocab_size(), "pad_token_id": 0} | config
    model = model_class(model_class.config_class(**given))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def rewrite_config(checkpoint: Path, **values: Any) -> None:
    """Write `config.json` anew, in keys of the original; None takes one away."""
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def texts() -> list[torch.Tensor]:
    torch.manual_seed(4)
    return [torch.randint(5, vocab_size(), (1, length)) for length in LENGTHS]


def mean_vectors(model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(input_ids=ids)[0][0].mean(dim=0) for ids in texts()]


def check_same(module: TaskModule, wanted: list[torch.Tensor]) -> None:
    """Compare all the texts in one padded batch with what each gives alone."""
    given = texts()
    ids = torch.zeros(len(given), max(LENGTHS), dtype=torch.int32)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(given):
        ids[row, : text.shape[1]] = text[0]
        mask[row, : text.shape[1]] = 1
    with torch.no_grad():
        found = module(ids, mask)[0]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("type_vocab_size", [0, 1])
def test_gte_loads_by_the_keys_it_was_published_with(tmp_path: Path, type_vocab_size: int) -> None:
    model = random_model(
        transformers.GteModel,
        type_vocab_size=type_vocab_size,
        rope_parameters={"rope_type": "default", "rope_theta": 20_000.0},
    )
    save_checkpoint(tmp_path, model)
    rewrite_config(
        tmp_path,
        architectures=["NewModel"],
        auto_map={"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
        model_type="new",
        rope_parameters=None,
        rope_theta=20_000,
        rope_scaling=None,
        layer_norm_type="layer_norm",
        position_embedding_type="rope",
        pack_qkv=True,
        logn_attention_scale=False,
    )

    assert "encoder.layer.0.attention.qkv_proj.weight" in load_file(tmp_path / "model.safetensors")
    check_same(load(tmp_path), mean_vectors(model))


def test_ntk_scaling_of_gte_is_that_of_its_paper(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, random_model(transformers.GteModel))
    theta, factor, size = 500_000.0, 2.0, 8
    rewrite_config(
        tmp_path,
        architectures=["NewModel"],
        model_type="new",
        rope_parameters=None,
        rope_theta=theta,
        rope_scaling={"type": "ntk", "factor": factor},
    )

    module = load(tmp_path)

    assert isinstance(module, EmbeddingModule)
    wanted = [(theta * factor) ** (-2 * i / size) / factor ** (2 / size) for i in range(size // 2)]
    torch.testing.assert_close(module.encoder.rotary_emb.inv_freq, torch.tensor(wanted))


def with_adapters(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn every linear layer and table into an original with low-rank matrices beside it."""
    torch.manual_seed(5)
    found = {}
    for name, weight in weights.items():
        stem = name.removesuffix(".weight")
        if weight.dim() != 2:
            found[name] = weight
            continue
        rows, columns = weight.shape
        is_table = "embeddings" in name
        sizes = ((rows, RANK), (RANK, columns)) if is_table else ((RANK, columns), (rows, RANK))
        found[f"{stem}.parametrizations.weight.original"] = weight
        for part, size in zip("AB", sizes, strict=True):
            found[f"{stem}.parametrizations.weight.0.lora_{part}"] = 0.1 * torch.randn(
                len(ADAPTERS), *size
            )
    return found


def save_jina_v3(directory: Path) -> dict[str, torch.Tensor]:
    """Save a random checkpoint with adapters, as Jina publishes them; return its weights."""
    model = random_model(
        transformers.JinaEmbeddingsV3Model, rope_parameters={"rope_theta": 20_000.0}
    )
    save_checkpoint(directory, model)
    weights = {f"roberta.{k}": v for k, v in load_file(directory / "model.safetensors").items()}
    weights = with_adapters(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    code = "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta"
    rewrite_config(
        directory,
        architectures=["XLMRobertaModel"],
        model_type="xlm-roberta",
        auto_map={"AutoConfig": f"{code}.XLMRobertaFlashConfig"},
        rope_parameters=None,
        rotary_emb_base=20_000.0,
        position_embedding_type="rotary",
        lora_adaptations=list(ADAPTERS),
        lora_alpha=2,
        lora_rank=RANK,
    )
    modules = json.loads((directory / "modules.json").read_text(encoding="utf-8"))
    modules[0]["type"] = "custom_st.Transformer"
    (directory / "modules.json").write_text(json.dumps(modules))
    return weights


@pytest.mark.parametrize("adapter", [*ADAPTERS, "none"])
def test_an_adapter_of_jina_v3_is_in_the_weights(tmp_path: Path, adapter: str) -> None:
    weights = save_jina_v3(tmp_path)
    model = random_model(
        transformers.JinaEmbeddingsV3Model, rope_parameters={"rope_theta": 20_000.0}
    )
    if adapter != "none":
        add_adapter(model, weights, ADAPTERS.index(adapter))

    check_same(load(tmp_path, adapter=adapter), mean_vectors(model))


def add_adapter(model: Any, weights: dict[str, torch.Tensor], index: int) -> None:
    """Add what an adapter adds, by transformers' own names of the layers."""

    def delta(stem: str, *, is_table: bool = False) -> torch.Tensor:
        path = f"roberta.{stem}.parametrizations.weight.0.lora_"
        a, b = weights[f"{path}A"][index], weights[f"{path}B"][index]
        return (2 / RANK) * (a @ b if is_table else b @ a)

    with torch.no_grad():
        for table in ("word_embeddings", "token_type_embeddings"):
            added = delta(f"embeddings.{table}", is_table=True)
            getattr(model.embeddings, table).weight += added
        for i, layer in enumerate(model.layers):
            stem = f"encoder.layers.{i}"
            parts = delta(f"{stem}.mixer.Wqkv").chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                getattr(layer.self_attn, name).weight += part
            layer.self_attn.o_proj.weight += delta(f"{stem}.mixer.out_proj")
            layer.mlp.fc1.weight += delta(f"{stem}.mlp.fc1")
            layer.mlp.fc2.weight += delta(f"{stem}.mlp.fc2")


def test_damaged_adapters_are_refused(tmp_path: Path) -> None:
    weights = save_jina_v3(tmp_path)
    gone = next(name for name in weights if name.endswith("lora_A"))
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(BuildError) as caught:
        load(tmp_path, adapter="text-matching")

    assert gone in caught.value.message


def test_a_reranker_of_jina_v2_is_an_xlm_roberta(tmp_path: Path) -> None:
    model = random_model(
        transformers.XLMRobertaForSequenceClassification,
        pad_token_id=1,
        type_vocab_size=1,
        id2label={0: "LABEL_0"},
    )
    save_model(tmp_path, model)
    weights = dict(flash_names(model.state_dict()))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    rewrite_config(
        tmp_path,
        auto_map={"AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig"},
        position_embedding_type="absolute",
    )
    with torch.no_grad():
        wanted = [model(input_ids=ids).logits[0] for ids in texts()]

    check_same(load(tmp_path), wanted)


def flash_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of an XLM-RoBERTa by the names of Jina's code, q, k and v in one."""
    places = {
        "attention.output.dense": "mixer.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "output.LayerNorm": "norm2",
    }
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if "position_ids" in name or ".self." in name:
            continue
        new = name.replace("embeddings.LayerNorm", "emb_ln")
        for old, place in places.items():
            if f".{old}." in new:
                new = new.replace(f".{old}.", f".{place}.")
                break
        found[new.replace("encoder.layer.", "encoder.layers.")] = tensor.clone()
    for i in range(SIZES["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            stem = f"roberta.encoder.layer.{i}.attention.self"
            parts = [weights[f"{stem}.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"roberta.encoder.layers.{i}.mixer.Wqkv.{kind}"] = torch.cat(parts)
    return found


def test_a_bidirectional_llama_looks_both_ways(tmp_path: Path) -> None:
    model = random_model(transformers.LlamaModel, num_key_value_heads=2, is_causal=False)
    causal = random_model(transformers.LlamaModel, num_key_value_heads=2)
    save_checkpoint(tmp_path, model)
    rewrite_config(
        tmp_path,
        architectures=["LlamaBidirectionalModel"],
        model_type="llama_bidirec",
        is_causal=None,
        pooling="avg",
    )

    wanted = mean_vectors(model)
    check_same(load(tmp_path), wanted)
    assert not torch.allclose(wanted[1], mean_vectors(causal)[1], atol=100 * TOLERANCE)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("avg", Pooling.MEAN), ("last", Pooling.LAST_TOKEN), (None, "mean")]
)
def test_a_bidirectional_reranker_scores_what_it_pools(
    tmp_path: Path, pooling: str | None, expected: str
) -> None:
    temperature = 0.2
    model = random_model(
        transformers.LlamaForSequenceClassification,
        num_key_value_heads=2,
        is_causal=False,
        id2label={0: "LABEL_0"},
    )
    save_model(tmp_path, model)
    rewrite_config(
        tmp_path,
        architectures=["LlamaBidirectionalForSequenceClassification"],
        model_type="llama_bidirec",
        is_causal=None,
        pooling=pooling,
        temperature=temperature,
    )
    with torch.no_grad():
        hidden = [model.model(input_ids=ids)[0][0] for ids in texts()]
        read = [h.mean(dim=0) if expected == "mean" else h[-1] for h in hidden]
        wanted = [model.score(vector) / temperature for vector in read]

    assert inspect_checkpoint(tmp_path).pooling == (expected,)
    check_same(load(tmp_path), wanted)
    assert not math.isclose(float(wanted[0]), 0.0, abs_tol=100 * TOLERANCE)


@pytest.mark.parametrize("prefix", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_the_flag_of_tei_makes_a_decoder_look_both_ways(tmp_path: Path, prefix: str) -> None:
    model_class = getattr(transformers, f"{prefix}Model")
    model = random_model(model_class, num_key_value_heads=2, head_dim=8, is_causal=False)
    save_checkpoint(tmp_path, model)
    rewrite_config(tmp_path, is_causal=None, use_bidirectional_attention=True)

    check_same(load(tmp_path), mean_vectors(model))
