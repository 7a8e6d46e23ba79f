"""Checkpoints on the Hugging Face hub, through its own client and its own cache."""

from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository
from beicli.errors import CheckpointError, CheckpointUnavailableError, ConfigError
from beicli.model.weights import check_weights, has_safetensors, onnx_files
from beicli.sources.fetched import Checkpoint, CheckpointFiles
from beicli.sources.files import (
    ALLOW_PATTERNS,
    IGNORE_PATTERNS,
    SMALL_PATTERNS,
    is_weights,
    sizes_below,
)
from beicli.sources.hub_cache import not_in_cache
from beicli.sources.secrets import find_secret

# What the client and its transfer library raise, and what answers of another shape make of it.
_RAISED = (
    httpx2.HTTPError,
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
)


def fetch_from_hub(repository: CheckpointRepository, *, offline: bool) -> Checkpoint:
    """Return all that a build reads of a repository; offline: from the client's cache only."""
    path = _snapshot(repository, ALLOW_PATTERNS, offline=offline)
    if not offline and not has_safetensors(sizes_below(path)):
        _fetch_onnx(repository, path)
    # The cache names a snapshot's folder after its commit, whatever branch or tag was asked for.
    return Checkpoint(path, path.name)


def look_into_hub(repository: CheckpointRepository, *, offline: bool) -> CheckpointFiles:
    """Return the small files of a repository, and what the hub says of the large ones."""
    path = _snapshot(repository, SMALL_PATTERNS, offline=offline)
    sizes = None if offline else _sizes_there(repository, path.name)
    if sizes is None:
        sizes = sizes_below(path)
        if not any(map(is_weights, sizes)) and not onnx_files(sizes):
            # Looked into once, never fetched; what is missing here says nothing about the hub.
            raise _no_weights_here(repository)
    return CheckpointFiles(path=path, sizes=sizes, headers={}, resolved_revision=path.name)


def _fetch_onnx(repository: CheckpointRepository, path: Path) -> None:
    """Fetch the ONNX model into a snapshot without safetensors, and nothing else of its kind.

    Raises CheckpointError, which names what the repository holds instead, if it has none.
    """
    sizes = _sizes_there(repository, path.name)
    if sizes is None:
        return  # not reached: what the cache has is all there is
    if not has_safetensors(sizes):
        pinned = replace(repository, revision=path.name)
        _snapshot(pinned, [*check_weights(path, sizes)], [], offline=False)


def _snapshot(
    repository: CheckpointRepository,
    patterns: list[str],
    ignored: list[str] = IGNORE_PATTERNS,
    *,
    offline: bool,
) -> Path:
    token = _token(repository.runtime_secret_name)
    try:
        path = snapshot_download(
            repository.repo,
            revision=repository.revision,
            token=token,
            local_files_only=offline,
            allow_patterns=patterns,
            ignore_patterns=ignored,
        )
    except HFValidationError as error:
        raise CheckpointError(
            f"`{public_repo(repository.repo)}` is not the name of a hub repository",
            hint="write `organisation/name`; for a folder on this disk set `source: LOCAL`",
        ) from error
    except _RAISED as error:
        raise _explain(error, repository, offline=offline) from error
    return Path(path)


def _sizes_there(repository: CheckpointRepository, commit: str) -> dict[str, int] | None:
    """Ask the hub for the sizes of all files; None if it cannot be reached."""
    api = HfApi(token=_token(repository.runtime_secret_name))
    try:
        entries = list(api.list_repo_tree(repository.repo, recursive=True, revision=commit))
    except _RAISED as error:
        explained = _explain(error, repository, offline=False)
        if isinstance(explained, CheckpointUnavailableError):
            return None
        raise explained from error
    return {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def _no_weights_here(repository: CheckpointRepository) -> CheckpointUnavailableError:
    return CheckpointUnavailableError(
        f"the local cache has no weights (`.safetensors`) of `{_name(repository)}`, and they"
        " cannot be fetched now",
        hint="run once without `--offline` and with a network, or point HF_HOME at a cache that"
        " has them",
    )


def _explain(
    error: Exception, repository: CheckpointRepository, *, offline: bool
) -> CheckpointError:
    name, secret = _name(repository), repository.runtime_secret_name
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"`{name}` is gated, and the token given may not read it",
            hint=f"accept its terms on the hub and set HF_TOKEN (or `{secret}`) in the environment",
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"`{public_repo(repository.repo)}` has no revision `{repository.revision}`",
            hint="name a branch, a tag or a full commit hash that exists",
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"`{public_repo(repository.repo)}` is not on the hub, or needs a token to be seen",
            hint=f"check the name; for a private repository set HF_TOKEN (or `{secret}`)",
        )
    if offline:
        return not_in_cache(repository)
    return _explain_transfer(error, name, secret)


def _explain_transfer(error: Exception, name: str, secret: str) -> CheckpointError:
    """Explain what stopped the transfer itself: an answer of the hub, the network or the disk."""
    # The hub's client looks into its cache first, and names what sent it there as the cause.
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    cause = cause or error
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return CheckpointError(
                f"`{name}` could not be fetched: the hub answered {status}",
                hint=f"check the token in HF_TOKEN (or `{secret}`)",
            )
        return CheckpointUnavailableError(
            f"`{name}` could not be fetched: the hub answered {status}", hint="try again later"
        )
    if isinstance(cause, httpx2.HTTPError | OfflineModeIsEnabled):
        return CheckpointUnavailableError(
            f"`{name}` could not be fetched: the hub cannot be reached",
            hint="check the network and HF_HUB_OFFLINE; with a filled cache use `--offline`",
        )
    if isinstance(cause, OSError) and not isinstance(cause, ValueError):
        return CheckpointError(f"`{name}` could not be fetched: {cause}")
    # What they say may hold a signed address.
    return CheckpointUnavailableError(
        f"`{name}` could not be fetched: the answers are not those of a hub, or broke off"
        f" ({type(cause).__name__})",
        hint="check the network: a proxy or a sign-in page may answer in its place",
    )


def _name(repository: CheckpointRepository) -> str:
    return f"{public_repo(repository.repo)}@{repository.revision or 'main'}"


def _token(secret_name: str) -> str | None:
    """Return the named secret; None leaves it to huggingface_hub's own places."""
    secret = find_secret(secret_name)
    if secret is None:
        return None
    token = secret.reveal()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the secret `{secret_name}`, found in {secret.origin}, is no token: it holds spaces,"
            " line breaks or other characters that no token has",
            hint="set it to the token alone, as the hub shows it",
        )
    return token
