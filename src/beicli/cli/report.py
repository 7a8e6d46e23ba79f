"""How the findings of `bei validate` look on a terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from beicli.cli.console import printable
from beicli.validation.findings import Finding, Level, worst_first

if TYPE_CHECKING:
    from beicli.validation.findings import TargetReport

_MB = 1_000_000
_STYLES = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.INFO: "cyan"}


def show_report(report: "TargetReport") -> None:
    """Print one target's verdict, its findings, worst first, and what else was learned."""
    console = Console(highlight=False)
    target = printable(report.target)
    console.print(Text.assemble((target, "bold"), f" ({report.kind}): {_summary(report)}"))
    findings = worst_first(report.findings)
    if findings:
        console.print(_findings_table(findings))
    for line in _commands(findings):
        # Unwrapped, so that it can be copied.
        console.print(Text(line), soft_wrap=True)
    for part in _facts(report.facts):
        console.print(part)
    console.print()


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print facts on stdout, one a line, records as tables."""
    console = Console(highlight=False)
    for part in _facts(facts):
        console.print(part)


def _summary(report: "TargetReport") -> str:
    counts = []
    for level in Level:
        number = sum(finding.level is level for finding in report.findings)
        if number:
            plural = "s" if number != 1 and level is not Level.INFO else ""
            counts.append(f"{number:,} {level}{plural}")
    checks = f"{report.num_checks:,} check{'s' if report.num_checks != 1 else ''}"
    return f"{report.verdict}, {', '.join([*counts, checks])}"


def _findings_table(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("level", no_wrap=True)
    table.add_column("where", overflow="fold", ratio=2)
    table.add_column("finding", overflow="fold", ratio=5)
    for finding in findings:
        table.add_row(
            Text(finding.level, style=_STYLES[finding.level]),
            Text(_place(finding) or "-"),
            _explained(finding),
        )
    return table


def _place(finding: Finding) -> str:
    line = f" (line {finding.line})" if finding.line is not None else ""
    return f"{printable(finding.place)}{' (`--set`)' if finding.is_override else line}"


def _commands(findings: tuple[Finding, ...]) -> Iterator[str]:
    """Yield what shows each failure of a server, under the rule's name."""
    for finding in findings:
        if finding.reproduce is not None and finding.level is not Level.INFO:
            yield f"# {finding.rule}"
            yield from map(printable, finding.reproduce.splitlines())
            yield ""


def _explained(finding: Finding) -> RenderableType:
    lines: list[RenderableType] = [
        Text(printable(finding.what)),
        Text(f"why: {finding.why}  [{finding.rule}]", style="dim"),
    ]
    if finding.fix:
        lines.append(Text(f"fix: {printable(finding.fix)}"))
    return Group(*lines)


def _facts(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Facts that are plain, one line each; lists of records as tables."""
    for name, value in facts.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            yield _records_table(title, value)
        elif isinstance(value, dict):
            pairs = (f"{key} {_plain(entry)}" for key, entry in value.items() if entry is not None)
            yield Text(f"{title}: {', '.join(pairs) or '-'}")
        elif value is not None:
            yield Text(f"{title}: {_plain(value, name)}")


def _records_table(title: str, records: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in records[0]:
        is_number = all(isinstance(record.get(column), int | float) for record in records)
        table.add_column(
            column.replace("_", " "), justify="right" if is_number else "left", overflow="fold"
        )
    for record in records:
        table.add_row(*(_plain(record.get(column), column) for column in records[0]))
    return table


def _plain(value: object, name: str = "") -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_bytes"):
        return f"{value / 1e6:,.1f} MB" if value >= _MB else f"{value / 1e3:,.1f} kB"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "-"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
