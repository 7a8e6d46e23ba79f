"""Checkpoints whose `config.json` was written for code of their own, said in the keys that load.

Such code never runs. What it computes is known, so its keys are translated into those of a class of
transformers, or of `modeling/`. One module a family: `translate` returns the configuration anew, or
None if it is of another family. What cannot be said in those keys is refused by name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from beicli.model.remote_code import bidirectional, gte, jina_v2, jina_v3, nomic

_FAMILIES: tuple[Callable[[Mapping[str, Any]], dict[str, Any] | None], ...] = (
    gte.translate,
    jina_v2.translate,
    jina_v3.translate,
    nomic.translate,
    bidirectional.translate,
)


def native_config(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `config.json` in the keys of the class that loads it; the same if it has them."""
    for translate in _FAMILIES:
        translated = translate(values)
        if translated is not None:
            # It names code, which transformers would ask about.
            return {key: value for key, value in translated.items() if key != "auto_map"}
    return values
