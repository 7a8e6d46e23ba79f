"""What may be written down of a configuration, and said of what a library says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from beicli.config.redaction import MASK, public_repo
from beicli.config.schema import CheckpointRepository, Config

# The variables that the build reads; the values of all others may be credentials.
_READ_VARIABLES = frozenset({"POOLING"})


def public_repository(repository: CheckpointRepository) -> CheckpointRepository:
    """Return `repository` as it may be written down."""
    return replace(repository, repo=public_repo(repository.repo))


def public_config(config: Config) -> Config:
    """Return `config` as it may be written down: no presigned address, no value of a secret."""
    build = config.trt_llm.build
    adapters = build.lora_adapters
    if adapters is not None:
        adapters = {name: public_repository(adapter) for name, adapter in adapters.items()}
    build = replace(
        build,
        checkpoint_repository=public_repository(build.checkpoint_repository),
        lora_adapters=adapters,
    )
    variables = {
        name: value if name in _READ_VARIABLES else MASK
        for name, value in config.environment_variables.items()
    }
    return replace(
        config,
        trt_llm=replace(config.trt_llm, build=build),
        secrets=dict.fromkeys(config.secrets),
        environment_variables=variables,
        weights=tuple(_public_value(value) for value in config.weights),
    )


def redact(text: str, values: tuple[str, ...]) -> str:
    """Return `text` with every one of `values` masked, longest first."""
    for value in sorted(set(values), key=len, reverse=True):
        if value:
            text = text.replace(value, MASK)
    return text


def _public_value(value: Any) -> Any:
    """Return what stands in a configuration, with every text in it as it may be shown."""
    if isinstance(value, str):
        return public_repo(value)
    if isinstance(value, Mapping):
        return {key: _public_value(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_public_value(item) for item in value]
    return value
