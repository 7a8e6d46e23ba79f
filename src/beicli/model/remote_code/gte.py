"""GTE v1.5 and multilingual, Snowflake Arctic Embed 2: the class `New…`, with rotary positions.

Source: `config.json` of Alibaba-NLP/gte-base-en-v1.5 and gte-multilingual-base.
"""

from collections.abc import Mapping
from typing import Any

from beicli.model.remote_code.keys import demand


def translate(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the configuration for transformers' `gte`.

    Some were renamed to it since, and kept their old keys.
    """
    is_old = values.get("model_type") == "gte" and "rope_parameters" not in values
    if values.get("model_type") != "new" and not is_old:
        return None
    demand(
        values,
        layer_norm_type="layer_norm",
        position_embedding_type="rope",
        logn_attention_scale=False,
        pack_qkv=True,
    )
    names = values.get("architectures") or []
    translated = {key: value for key, value in values.items() if not key.startswith("rope_")}
    return translated | {
        "model_type": "gte",
        "architectures": [f"Gte{_ending(str(name))}" for name in names],
        "rope_parameters": _rope_parameters(values),
    }


def _ending(name: str) -> str:
    return name.removeprefix("New").removeprefix("Gte")


def _rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    theta = float(values.get("rope_theta") or 10_000.0)
    scaling = values.get("rope_scaling")
    if not scaling:
        return {"rope_type": "default", "rope_theta": theta}
    demand(scaling, type="ntk", mixed_b=None)
    factor = float(scaling["factor"])
    head_size = values["hidden_size"] // values["num_attention_heads"]
    # Their NTK scaling has a larger base, and every frequency is divided by one number.
    return {
        "rope_type": "linear",
        "rope_theta": theta * factor,
        "factor": factor ** (2 / head_size),
    }
