"""Which of a checkpoint's task adapters is merged into the engine.

Jina's embedding models carry one set of weights and, for each task, small matrices to add to them.
"""

from collections.abc import Mapping
from typing import Any

from beicli.errors import CheckpointError, ConfigError
from beicli.model.files import CheckpointFile

_KEY = "model_metadata.adapter"
# What the user writes for the weights without any adapter.
NO_ADAPTER = "none"


def configured_adapter(metadata: Mapping[str, Any]) -> str | None:
    """Read the key `adapter` of `model_metadata`."""
    name = metadata.get("adapter")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"`{_KEY}` is {name!r}, wanted the name of an adapter")
    return name


def choose_adapter(config: CheckpointFile, asked: str | None) -> str | None:
    """Return the adapter to merge, None for none.

    Raises ConfigError where the checkpoint has adapters and none of them was asked for: without one
    the vectors are much worse, and nothing in an answer would show it.
    """
    names = adapters_of(config)
    if not names and asked in {None, NO_ADAPTER}:
        return None
    if not names:
        raise ConfigError(
            f"`{_KEY}` is `{asked}`, but `{config.name}` names no adapters", hint="leave it out"
        )
    if asked == NO_ADAPTER or asked in names:
        return None if asked == NO_ADAPTER else asked
    found = "is not set" if asked is None else f"is `{asked}`, which is none of them"
    raise ConfigError(
        f"`{config.name}` names the adapters {', '.join(names)}, and `{_KEY}` {found}",
        hint=f"an engine has one: `model_metadata: {{adapter: {names[0]}}}`, or "
        f"`{NO_ADAPTER}` for the weights without",
    )


def adapters_of(config: CheckpointFile) -> list[str]:
    """Return the names of the adapters, in the order of their matrices."""
    names = config.values.get("lora_adaptations") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"`lora_adaptations` in `{config.name}` is not a list of names")
    return names
