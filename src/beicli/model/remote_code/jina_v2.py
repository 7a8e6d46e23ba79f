"""Jina embeddings v2 and rerankers v1: a BERT whose positions are ALiBi biases, mostly with a GLU.

Their files call it `bert`; `JinaBert` in the class names tells it apart. The code model's variant
also normalises queries and keys, and only the repository of its code says so.
Source: `config.json` of jinaai/jina-embeddings-v2-base-en, -base-code and jina-reranker-v1-tiny-en.
"""

from collections.abc import Mapping
from typing import Any

from beicli.model.remote_code.keys import demand

_PREFIX = "JinaBert"
_QUERY_KEY_NORM_CODE = "jina-bert-v2-qk-post-norm"


def translate(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the configuration for `modeling/jina_bert.py`."""
    if values.get("model_type") != "bert" or not _names_jina_bert(values):
        return None
    demand(
        # Their code's own defaults; a key that is absent has them.
        {"position_embedding_type": "absolute", "feed_forward_type": "original"} | dict(values),
        position_embedding_type="alibi",
        feed_forward_type=("original", "geglu", "reglu"),
        is_decoder=False,
        add_cross_attention=False,
    )
    names = [str(name).removeprefix("Jina") for name in values.get("architectures") or []]
    # Theirs are names of their own, which transformers would look up among its own.
    kept = {key: value for key, value in values.items() if key != "attn_implementation"}
    return {
        **kept,
        "model_type": "jina_bert",
        "architectures": [f"Jina{name}" for name in names],
        "has_query_key_norm": _QUERY_KEY_NORM_CODE in _origin_of_code(values),
        **_labels(values),
    }


def _names_jina_bert(values: Mapping[str, Any]) -> bool:
    names = values.get("architectures") or []
    return _PREFIX in _origin_of_code(values) or any(_PREFIX in str(name) for name in names)


def _origin_of_code(values: Mapping[str, Any]) -> str:
    """Return where the code lies and what it was made from, as far as the file says."""
    classes = values.get("auto_map") or {}
    return " ".join(str(name) for name in [values.get("_name_or_path", ""), *classes.values()])


def _labels(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names transformers gives to labels that are only counted, as in the rerankers."""
    if "id2label" in values or not isinstance(values.get("num_labels"), int):
        return {}
    return {"id2label": {str(index): f"LABEL_{index}" for index in range(values["num_labels"])}}
