"""What may be shown of a place: everything but its passwords and signatures.

A presigned address is a credential as a whole. Messages, manifests and the configuration that an
engine carries name it without its user, its query and its fragment.
"""

from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from beicli.config.schema import CheckpointRepository, Config

_MASK = "***"


def public_repo(repo: str) -> str:
    """Return the name of a place without user, password, query and fragment."""
    if "://" not in repo:
        return repo
    try:
        parts = urlsplit(repo)
    except ValueError:
        return f"{repo.split('://', 1)[0]}://{_MASK}"
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


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
    trt_llm = replace(config.trt_llm, build=build)
    return replace(config, trt_llm=trt_llm, secrets=dict.fromkeys(config.secrets))


def redact(text: str, values: tuple[str, ...]) -> str:
    """Return `text` with every one of `values` masked, longest first."""
    for value in sorted(set(values), key=len, reverse=True):
        if value:
            text = text.replace(value, _MASK)
    return text
