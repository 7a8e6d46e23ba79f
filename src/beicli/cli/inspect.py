"""`bei inspect` and `bei diff`: what engines are, and in what they differ."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beicli.artifact.names import REPORT_NAME
from beicli.cli.console import print_data, print_json, say

if TYPE_CHECKING:
    from beicli.artifact.manifest import Manifest
    from beicli.artifact.report import AccuracyReport

_Json = Annotated[bool, typer.Option("--json", envvar="BEI_JSON", help="Print JSON.")]


def inspect(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="An engine directory.")],
    as_json: _Json = False,
) -> None:
    """Print what an engine directory holds.

    Nothing is checked or loaded: `bei validate ENGINE` does that.
    """
    from beicli.artifact.directory import read_manifest
    from beicli.artifact.summary import summarise

    manifest = read_manifest(engine)
    summary = summarise(manifest, _read_report(engine, manifest))
    if as_json:
        print_json(summary)
    else:
        from beicli.cli.report import show_facts

        show_facts(summary)


def diff(
    left: Annotated[Path, typer.Argument(metavar="ENGINE", help="An engine directory.")],
    right: Annotated[Path, typer.Argument(metavar="OTHER", help="Another one.")],
    as_json: _Json = False,
) -> None:
    """Print in what two engine directories differ.

    The time of the build is left out. Exits 0 if they are the same, 1 if they differ and 2 if one
    cannot be read, as the command `diff` does.
    """
    from dataclasses import asdict

    from beicli.artifact.summary import differences

    found = differences(_read(left), _read(right))
    if as_json:
        print_json([asdict(difference) for difference in found])
    else:
        for difference in found:
            print_data(difference.place)
            print_data(f"  - {_shown(difference.left)}")
            print_data(f"  + {_shown(difference.right)}")
        say(f"{len(found):,} difference{'' if len(found) == 1 else 's'}")
    if found:
        raise typer.Exit(1)


def _read(engine: Path) -> "tuple[Manifest, AccuracyReport | None]":
    """Return what is compared; raises UsageError, which ends in exit code 2, if it is no engine."""
    from beicli.artifact.directory import read_manifest
    from beicli.errors import ArtifactError, UsageError

    try:
        manifest = read_manifest(engine)
    except ArtifactError as error:
        raise UsageError(error.message, hint=error.hint) from error
    return manifest, _read_report(engine, manifest)


def _read_report(engine: Path, manifest: "Manifest") -> "AccuracyReport | None":
    """Return the report, or None where there is none that can be read."""
    from beicli.artifact.report import parse_report
    from beicli.errors import ArtifactError

    if REPORT_NAME not in manifest.files:
        return None
    try:
        return parse_report((engine / REPORT_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ArtifactError):
        return None


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else json.dumps(value, ensure_ascii=False)
