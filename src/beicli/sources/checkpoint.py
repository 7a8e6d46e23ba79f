"""Brings a checkpoint onto this disk: from the Hugging Face hub or from a local folder.

Only what a build reads is fetched: JSON, tokenizer files and safetensors. Pickles and Python files
of a repository are never downloaded, so they can never be loaded.
"""

import os
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError

_ALLOW_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]
# Other formats and frameworks' folders hold safetensors or JSON too, and can be many gigabytes.
_IGNORE_PATTERNS = ["onnx/*", "openvino/*", "original/*", "*.onnx.json"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this disk.

    resolved_revision: the commit that was fetched, None for a local folder.
    """

    path: Path
    resolved_revision: str | None

    @property
    def size_bytes(self) -> int:
        """Bytes of its safetensors files."""
        return sum(file.stat().st_size for file in self.path.rglob("*.safetensors"))


def fetch_checkpoint(
    repository: CheckpointRepository, *, config_directory: Path, offline: bool
) -> Checkpoint:
    """Return the checkpoint that `repository` names.

    config_directory: what a relative LOCAL path is relative to.
    offline: take a hub checkpoint from the local cache only.
    """
    if repository.source is CheckpointSource.LOCAL:
        return _local(repository.local_path(relative_to=config_directory))
    if repository.source is CheckpointSource.HF:
        return _from_hub(repository, offline=offline)
    raise CheckpointError(
        f"checkpoints from `{repository.source}` cannot be fetched; supported are HF and LOCAL",
        hint="download it and name the folder: `source: LOCAL`, `repo: /path/to/checkpoint`",
    )


def _local(path: Path) -> Checkpoint:
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(
            f"the checkpoint folder `{path}` {found}",
            hint="`repo` of a LOCAL checkpoint is a path, relative to the configuration file",
        )
    return Checkpoint(path, None)


def _from_hub(repository: CheckpointRepository, *, offline: bool) -> Checkpoint:
    name = f"{repository.repo}@{repository.revision or 'main'}"
    try:
        path = snapshot_download(
            repository.repo,
            revision=repository.revision,
            token=_token(repository.runtime_secret_name),
            local_files_only=offline,
            allow_patterns=_ALLOW_PATTERNS,
            ignore_patterns=_IGNORE_PATTERNS,
        )
    except HFValidationError as error:
        raise CheckpointError(
            f"`{repository.repo}` is not the name of a hub repository",
            hint="write `organisation/name`; for a folder on this disk set `source: LOCAL`",
        ) from error
    except (httpx2.HTTPError, OSError) as error:
        raise _explain(error, name, repository, offline=offline) from error
    # The cache names a snapshot's folder after its commit, whatever branch or tag was asked for.
    return Checkpoint(Path(path), Path(path).name)


def _explain(
    error: Exception, name: str, repository: CheckpointRepository, *, offline: bool
) -> CheckpointError:
    secret = repository.runtime_secret_name
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"`{name}` is gated, and the token given may not read it",
            hint=f"accept its terms on the hub and set HF_TOKEN (or `{secret}`) in the environment",
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"`{repository.repo}` has no revision `{repository.revision}`",
            hint="name a branch, a tag or a full commit hash that exists",
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"`{repository.repo}` is not on the hub, or needs a token to be seen",
            hint=f"check the name; for a private repository set HF_TOKEN (or `{secret}`)",
        )
    if offline:
        return CheckpointError(
            f"`{name}` is not in the local cache, and `--offline` forbids fetching it",
            hint="run once without `--offline`, or point HF_HOME at a cache that has it",
        )
    return _explain_transfer(error, name, secret)


def _explain_transfer(error: Exception, name: str, secret: str) -> CheckpointError:
    """Explain what stopped the transfer itself: an answer of the hub, the network or the disk."""
    # The hub's client looks into its cache first, and names what sent it there as the cause.
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        is_refused = status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        return CheckpointError(
            f"`{name}` could not be fetched: the hub answered {status}",
            hint=f"check the token in HF_TOKEN (or `{secret}`)"
            if is_refused
            else "try again later",
        )
    if isinstance(cause, httpx2.HTTPError | OfflineModeIsEnabled):
        return CheckpointError(
            f"`{name}` could not be fetched: the hub cannot be reached",
            hint="check the network and HF_HUB_OFFLINE; with a filled cache use `--offline`",
        )
    return CheckpointError(f"`{name}` could not be fetched: {cause}")


def _token(secret_name: str) -> str | None:
    """The named secret from the environment; None leaves it to huggingface_hub's own places."""
    return os.environ.get(secret_name) or os.environ.get(secret_name.upper()) or None
