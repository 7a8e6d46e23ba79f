"""`bei validate`: a verdict on configurations, engine directories and running servers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beicli.cli.api_keys import read_api_keys
from beicli.cli.console import print_json, say

if TYPE_CHECKING:
    from beicli.validation.findings import TargetReport

# Raised whenever a key of the JSON changes its meaning or goes away.
JSON_SCHEMA_VERSION = 1


def validate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="Each a config.yaml, a Truss directory, an engine directory, or a server's URL.",
        ),
    ],
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", envvar="BEI_STRICT", help="Refuse unknown keys, and fail on warnings."
        ),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", envvar="BEI_OFFLINE", help="Look at checkpoints on this disk only."
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="BEI_SET",
            metavar="KEY.PATH=VALUE",
            help="Override a key of the configurations.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(envvar="BEI_MODEL", help="What to call the model of a server."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(envvar="BEI_API_KEY_FILE", help="File with the key for a server."),
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s",
            envvar="BEI_TIMEOUT_S",
            min=0.1,
            help="Seconds a server may take to answer.",
        ),
    ] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="BEI_JSON", help="Print the findings as JSON.")
    ] = False,
) -> None:
    """Check a configuration, an engine directory or a running server.

    Exits 0 if nothing is wrong or there are warnings only, 1 if a target fails, 2 if one is nothing
    that can be checked.
    """
    from beicli.validation.findings import worst_verdict
    from beicli.validation.target import ValidationOptions, validate_targets

    options = ValidationOptions(
        strict=strict,
        offline=offline,
        overrides=tuple(overrides or ()),
        model=model,
        api_key=None if api_key_file is None else read_api_keys(api_key_file)[0],
        timeout_s=timeout_s,
        progress=say if sys.stderr.isatty() else None,
    )
    reports = validate_targets(targets, options)
    if as_json:
        print_json(_as_json(reports))
    else:
        from beicli.cli.report import show_report

        for report in reports:
            show_report(report)
        num_targets = f"{len(reports):,} target{'s' if len(reports) != 1 else ''}"
        say(f"{worst_verdict(reports)}: {num_targets}")
    raise typer.Exit(_exit_code(reports, strict=strict))


def _exit_code(reports: "list[TargetReport]", *, strict: bool) -> int:
    from beicli.validation.findings import TargetKind, Verdict

    if any(report.kind is TargetKind.UNKNOWN for report in reports):
        return 2
    failing = {Verdict.FAILED, Verdict.WARNINGS} if strict else {Verdict.FAILED}
    return int(any(report.verdict in failing for report in reports))


def _as_json(reports: "list[TargetReport]") -> dict[str, Any]:
    from dataclasses import asdict

    from beicli.validation.findings import worst_first, worst_verdict

    return {
        "schema_version": JSON_SCHEMA_VERSION,
        "verdict": worst_verdict(reports),
        "targets": [
            {
                "target": report.target,
                "kind": report.kind,
                "verdict": report.verdict,
                "num_checks": report.num_checks,
                "findings": [asdict(finding) for finding in worst_first(report.findings)],
                "facts": dict(report.facts),
            }
            for report in reports
        ],
    }
