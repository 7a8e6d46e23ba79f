"""Jina's v2 configurations, as published, in the keys of the class that computes them."""

from typing import Any

import pytest

from beicli.errors import UnsupportedModelError
from beicli.model.remote_code import native_config
from beicli.model.remote_code.jina_v2 import translate

CLASSES = ("Config", "Model", "ModelForMaskedLM", "ModelForSequenceClassification")


def published(code: str = "jinaai/jina-bert-implementation", **more: Any) -> dict[str, Any]:
    """Return the `config.json` of jina-embeddings-v2-base-en, but for what `more` says."""
    return {
        "_name_or_path": code,
        "model_max_length": 8192,
        "architectures": ["JinaBertForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "auto_map": {f"Auto{name}": f"{code}--modeling_bert.JinaBert{name}" for name in CLASSES},
        "classifier_dropout": None,
        "emb_pooler": "mean",
        "feed_forward_type": "geglu",
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 8192,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "position_embedding_type": "alibi",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "vocab_size": 30528,
    } | more


def test_the_embedding_model_keeps_its_sizes() -> None:
    found = native_config(published())

    assert found["model_type"] == "jina_bert"
    assert found["architectures"] == ["JinaBertForMaskedLM"]
    assert found["has_query_key_norm"] is False
    assert found["max_position_embeddings"] == 8192
    assert found["feed_forward_type"] == "geglu"
    assert "auto_map" not in found


def test_the_code_model_is_told_by_where_its_code_lies() -> None:
    values = published("jinaai/jina-bert-v2-qk-post-norm", attn_implementation="torch")

    found = translate(values)

    assert found is not None
    assert found["has_query_key_norm"] is True
    assert "attn_implementation" not in found


def test_the_code_model_is_told_by_its_code_after_training_renamed_it() -> None:
    values = published("jinaai/jina-bert-v2-qk-post-norm", _name_or_path="my/model")

    found = translate(values)

    assert found is not None
    assert found["has_query_key_norm"] is True


def test_a_reranker_with_counted_labels_has_their_names() -> None:
    values = published(
        architectures=["JinaBertForSequenceClassification"],
        auto_map={"AutoModel": "modeling_bert.JinaBertModel"},
        _name_or_path="",
        num_labels=1,
    )

    found = translate(values)

    assert found is not None
    assert found["architectures"] == ["JinaBertForSequenceClassification"]
    assert found["id2label"] == {"0": "LABEL_0"}


def test_labels_with_names_keep_them() -> None:
    named = {"0": "no", "1": "yes"}

    found = translate(published(id2label=named, num_labels=2))

    assert found is not None
    assert found["id2label"] == named


def test_a_class_named_as_berts_is_jinas_if_its_code_is() -> None:
    found = translate(published(architectures=["BertForTokenClassification"]))

    assert found is not None
    assert found["architectures"] == ["JinaBertForTokenClassification"]


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "bert", "architectures": ["BertModel"], "position_embedding_type": "alibi"},
        {"model_type": "xlm-roberta", "architectures": ["JinaBertModel"]},
    ],
)
def test_other_models_are_left_alone(values: dict[str, Any]) -> None:
    assert translate(values) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "absolute"),
        ("feed_forward_type", "swiglu"),
        ("is_decoder", True),
        ("add_cross_attention", True),
    ],
)
def test_what_is_not_computed_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"`{key}: {value}`"):
        translate(published(**{key: value}))


def test_a_file_that_names_no_positions_has_absolute_ones() -> None:
    values = published()
    del values["position_embedding_type"]

    with pytest.raises(UnsupportedModelError, match="`position_embedding_type: absolute`"):
        translate(values)
