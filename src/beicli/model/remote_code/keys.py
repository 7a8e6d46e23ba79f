"""How translated configurations are put together."""

from collections.abc import Mapping
from typing import Any

from beicli.errors import UnsupportedModelError


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values with keys of `names` under their new names, all others unchanged."""
    return {names.get(key, key): value for key, value in values.items()}


def demand(values: Mapping[str, Any], **wanted: Any) -> None:
    """Raise UnsupportedModelError unless each key is absent or one of the values in `wanted`.

    A value is wanted alone, or as one of a tuple.
    """
    for key, accepted in wanted.items():
        known = accepted if isinstance(accepted, tuple) else (accepted,)
        # 0 and False are equal to Python, and to whoever wrote such a file.
        if key in values and values[key] not in known:
            raise UnsupportedModelError(
                f"`config.json` has `{key}: {values[key]}`; compiled is "
                f"{' or '.join(f'`{value}`' for value in known)}",
                hint="choose another model: code from checkpoints is never run, and none of ours "
                "computes this",
            )
