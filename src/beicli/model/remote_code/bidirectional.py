"""Decoders that look both ways, as their class, their code or a flag says.

NVIDIA's Llama Nemotron, Perplexity's Qwen3, the first Qwen2 embedding models, and any with
text-embeddings-inference's `use_bidirectional_attention`.
Source: `config.json` of nvidia/llama-3.2-nv-embedqa-1b-v2; `modeling_qwen.py` of
Alibaba-NLP/gte-Qwen2-1.5B-instruct; text-embeddings-inference.
"""

from collections.abc import Mapping
from typing import Any

# Keys of ours for what transformers' classifiers cannot be told: what the score is read from, and
# what it is divided by.
CLASSIFIER_POOLING = "bei_classifier_pooling"
SCORE_TEMPERATURE = "bei_score_temperature"
_CLASSES = {
    "llama_bidirec": ("llama", "Llama"),
    "bidirectional_pplx_qwen3": ("qwen3", "Qwen3"),
}
_QWEN2_CLASS = "modeling_qwen.Qwen2Model"
# transformers reads the flag itself for these.
_WITH_A_FLAG = frozenset({"gemma3", "gemma3_text"})


def translate(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the configuration for transformers' causal class, told not to be causal."""
    model_type = values.get("model_type")
    if model_type in _CLASSES:
        native, prefix = _CLASSES[model_type]
        names = [_native_name(str(name), prefix) for name in values.get("architectures") or []]
        return {
            **values,
            "model_type": native,
            "architectures": names,
            "is_causal": False,
            CLASSIFIER_POOLING: values.get("pooling", "avg"),
            SCORE_TEMPERATURE: values.get("temperature", 1.0),
        }
    if is_first_qwen2(values) and "is_causal" not in values:
        # What their code takes where the file does not say.
        return {**values, "is_causal": False}
    if values.get("use_bidirectional_attention") is True and model_type not in _WITH_A_FLAG:
        return {**values, "is_causal": False}
    return None


def is_first_qwen2(values: Mapping[str, Any]) -> bool:
    """Whether `config.json` names the code of the first Qwen2 embedding models."""
    auto_map = values.get("auto_map")
    name = auto_map.get("AutoModel") if isinstance(auto_map, dict) else None
    # Code that lies in another repository has its name and two dashes in front.
    return isinstance(name, str) and name.rsplit("--", 1)[-1] == _QWEN2_CLASS


def _native_name(name: str, prefix: str) -> str:
    return prefix + ("ForSequenceClassification" if "Classification" in name else "Model")
