"""Jina embeddings v3 and reranker v2: XLM-RoBERTa under other names, and with adapters for tasks.

Source: `config.json` of jinaai/jina-embeddings-v3 and jinaai/jina-reranker-v2-base-multilingual.
"""

from collections.abc import Mapping
from typing import Any

from beicli.model.remote_code.keys import demand

_CONFIG_CLASS = "XLMRobertaFlashConfig"


def translate(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the configuration for transformers' `jina_embeddings_v3`, or its `xlm-roberta`."""
    if not is_flash(values):
        return None
    demand(values, emb_pooler=(None, "mean", "cls"), use_reg_tokens=False)
    if values.get("position_embedding_type", "absolute") == "absolute":
        return {**values, "model_type": "xlm-roberta"}
    demand(values, position_embedding_type="rotary")
    names = values.get("architectures") or []
    base = float(values.get("rotary_emb_base") or 10_000.0)
    return {
        **values,
        "model_type": "jina_embeddings_v3",
        "architectures": [str(name).replace("XLMRoberta", "JinaEmbeddingsV3") for name in names],
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
    }


def is_flash(values: Mapping[str, Any]) -> bool:
    """Whether `config.json` describes Jina's XLM-RoBERTa."""
    if values.get("model_type") == "xlm-roberta-flash":
        return True
    code = values.get("auto_map")
    named = code.get("AutoConfig", "") if isinstance(code, dict) else ""
    return values.get("model_type") == "xlm-roberta" and str(named).endswith(_CONFIG_CLASS)
