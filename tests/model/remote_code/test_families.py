"""Configurations as they were published, in the keys that load."""

from collections.abc import Mapping
from typing import Any

import pytest

from beicli.errors import UnsupportedModelError
from beicli.model.remote_code import native_config

GTE: Mapping[str, Any] = {
    "architectures": ["NewModel"],
    "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
    "model_type": "new",
    "hidden_size": 768,
    "num_attention_heads": 12,
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "pack_qkv": True,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 2.0, "type": "ntk"},
    "rope_theta": 500000,
}
FLASH: Mapping[str, Any] = {
    "architectures": ["XLMRobertaModel"],
    "auto_map": {
        "AutoConfig": "jinaai/xlm-roberta-flash-implementation--"
        "configuration_xlm_roberta.XLMRobertaFlashConfig"
    },
    "model_type": "xlm-roberta",
    "position_embedding_type": "rotary",
    "rotary_emb_base": 20000.0,
    "emb_pooler": None,
}
LLAMA: Mapping[str, Any] = {
    "architectures": ["LlamaBidirectionalModel"],
    "model_type": "llama_bidirec",
    "pooling": "avg",
}


def test_gte_is_that_of_transformers() -> None:
    native = native_config(GTE)

    assert native["model_type"] == "gte"
    assert native["architectures"] == ["GteModel"]
    assert native["rope_parameters"] == {
        "rope_type": "linear",
        "rope_theta": 1_000_000.0,
        "factor": pytest.approx(2 ** (2 / 64)),
    }
    assert not {"auto_map", "rope_theta", "rope_scaling"} & native.keys()


def test_gte_that_was_renamed_since_is_read_by_its_old_keys() -> None:
    renamed = {**GTE, "model_type": "gte", "architectures": ["GteModel"]}

    assert native_config(renamed) == native_config(GTE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NewForSequenceClassification", "GteForSequenceClassification"),
        ("NewForTokenClassification", "GteForTokenClassification"),
        ("NewForMaskedLM", "GteForMaskedLM"),
    ],
)
def test_heads_of_gte_are_those_of_transformers(name: str, expected: str) -> None:
    assert native_config({**GTE, "architectures": [name]})["architectures"] == [expected]


@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-flash"])
def test_jina_v3_is_that_of_transformers(model_type: str) -> None:
    native = native_config({**FLASH, "model_type": model_type})

    assert native["model_type"] == "jina_embeddings_v3"
    assert native["architectures"] == ["JinaEmbeddingsV3Model"]
    assert native["rope_parameters"] == {"rope_type": "default", "rope_theta": 20000.0}


def test_jina_reranker_v2_is_an_xlm_roberta() -> None:
    name = "XLMRobertaForSequenceClassification"
    stated = {**FLASH, "architectures": [name], "position_embedding_type": "absolute"}

    native = native_config(stated)

    assert (native["model_type"], native["architectures"]) == ("xlm-roberta", [name])


@pytest.mark.parametrize(
    ("model_type", "name", "native_type", "native_name"),
    [
        ("llama_bidirec", "LlamaBidirectionalModel", "llama", "LlamaModel"),
        (
            "llama_bidirec",
            "LlamaBidirectionalForSequenceClassification",
            "llama",
            "LlamaForSequenceClassification",
        ),
        ("bidirectional_pplx_qwen3", "PPLXQwen3Model", "qwen3", "Qwen3Model"),
    ],
)
def test_bidirectional_decoders_are_not_causal(
    model_type: str, name: str, native_type: str, native_name: str
) -> None:
    native = native_config({**LLAMA, "model_type": model_type, "architectures": [name]})

    assert (native["model_type"], native["architectures"]) == (native_type, [native_name])
    assert native["is_causal"] is False


@pytest.mark.parametrize("stated", [None, True, False])
def test_the_first_qwen2_embedding_models_look_both_ways_unless_they_say(
    *, stated: bool | None
) -> None:
    code = "Alibaba-NLP/gte-Qwen2-1.5B-instruct--modeling_qwen.Qwen2Model"
    values: dict[str, Any] = {"model_type": "qwen2", "auto_map": {"AutoModel": code}}
    if stated is not None:
        values["is_causal"] = stated

    assert native_config(values)["is_causal"] is (stated is True)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "bert", "architectures": ["BertModel"]},
        {"model_type": "gte", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"model_type": "xlm-roberta", "auto_map": {"AutoConfig": "other.Config"}},
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        {"model_type": "qwen3", "use_bidirectional_attention": False},
    ],
)
def test_what_transformers_reads_by_itself_stays(values: Mapping[str, Any]) -> None:
    assert native_config(values) is values


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({**GTE, "layer_norm_type": "rms_norm"}, "`layer_norm_type: rms_norm`"),
        ({**GTE, "logn_attention_scale": True}, "`logn_attention_scale: True`"),
        ({**GTE, "rope_scaling": {"type": "yarn", "factor": 2.0}}, "`type: yarn`"),
        ({**FLASH, "use_reg_tokens": True}, "`use_reg_tokens: True`"),
        ({**FLASH, "position_embedding_type": "alibi"}, "`position_embedding_type: alibi`"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(values: Mapping[str, Any], found: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        native_config(values)

    assert caught.value.message.startswith(f"`config.json` has {found}; compiled is ")
