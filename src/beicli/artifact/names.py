"""How an engine directory is recognised, for code that must not load the rest."""

from pathlib import Path

MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.json"
GOLDEN_NAME = "golden.npz"

# A manifest lists a few dozen files; anything larger is not one.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024


def has_manifest(directory: Path) -> bool:
    """Whether `manifest.json` is ours: of any format version, even damaged.

    Other programs have files of that name too.
    """
    try:
        with (directory / MANIFEST_NAME).open("rb") as file:
            return b'"bei_version"' in file.read(MAX_MANIFEST_BYTES)
    except OSError:
        return False
