"""Checkpoints in the hub client's cache, seen without the client, whose import takes 0.1 s.

Only looked at: what is there is never taken for all there is unless it can be built from.
Source: the layout `models--ORG--NAME/{refs,snapshots}` of huggingface_hub.
"""

import re
from pathlib import Path

from huggingface_hub import constants

from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository
from beicli.errors import CheckpointError, CheckpointUnavailableError
from beicli.model.weights import TOKENIZER_NAME, check_weights
from beicli.sources.fetched import CheckpointFiles
from beicli.sources.files import is_weights, sizes_below

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEEDED = frozenset({"config.json", TOKENIZER_NAME})


def look_into_cache(repository: CheckpointRepository) -> CheckpointFiles | None:
    """Return a snapshot that has all a build needs; None where the client has to say more.

    Raises CheckpointUnavailableError if nothing of the repository is there.
    """
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.repo.replace('/', '--')}"
    if not folder.exists():
        raise not_in_cache(repository)
    try:
        commit = _commit(folder, repository.revision or constants.DEFAULT_REVISION)
        path = folder / "snapshots" / commit
        sizes = sizes_below(path)
        check_weights(path, sizes)
    except (OSError, ValueError, CheckpointError):
        return None
    if not sizes.keys() >= _NEEDED:
        return None
    headers = {name: path / name for name in sizes if is_weights(name)}
    return CheckpointFiles(path=path, sizes=sizes, headers=headers, resolved_revision=commit)


def not_in_cache(repository: CheckpointRepository) -> CheckpointUnavailableError:
    """Return the error that says so."""
    name = f"{public_repo(repository.repo)}@{repository.revision or constants.DEFAULT_REVISION}"
    return CheckpointUnavailableError(
        f"`{name}` is not in the local cache, and `--offline` forbids fetching it",
        hint="run once without `--offline`, or point HF_HOME at a cache that has it",
    )


def _commit(folder: Path, revision: str) -> str:
    """Return the commit of a revision; raises OSError or ValueError if the cache has none."""
    is_commit = _COMMIT.fullmatch(revision) is not None
    commit = revision if is_commit else (folder / "refs" / revision).read_text(encoding="ascii")
    if not _COMMIT.fullmatch(commit):
        raise ValueError("a reference holds something else than a commit")
    return commit
