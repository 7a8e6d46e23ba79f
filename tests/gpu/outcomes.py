"""What came of each check, and how all of them look in a report."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from beicli import __version__

SCHEMA_VERSION = 1


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check.

    message: why it failed or was skipped; empty if it passed. values: what was measured.
    """

    name: str
    outcome: Outcome
    duration_s: float
    message: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """Everything that one run found; `facts` tells of the machine."""

    facts: Mapping[str, Any]
    results: tuple[CheckResult, ...]

    @property
    def has_passed(self) -> bool:
        """Whether something ran, and nothing failed."""
        outcomes = {result.outcome for result in self.results}
        return Outcome.PASSED in outcomes and Outcome.FAILED not in outcomes


def write_report(report: GpuReport, path: Path) -> Path:
    """Write the report as JSON, and for people beside it; return the path of the latter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    readable = path.with_suffix(".md")
    readable.write_text(as_text(report), encoding="utf-8")
    return readable


def as_json(report: GpuReport) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "bei_version": __version__,
        "python": platform.python_version(),
        "has_passed": report.has_passed,
        "facts": report.facts,
        "results": [asdict(result) for result in report.results],
    }


def as_text(report: GpuReport) -> str:
    """The same in Markdown: a table of all checks, then what failed, then what was measured."""
    counts = {
        outcome: sum(result.outcome is outcome for result in report.results) for outcome in Outcome
    }
    summary = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    lines = [f"# beicli {__version__} on a GPU: {summary}", ""]
    lines += [f"- {name}: {_shown(value)}" for name, value in report.facts.items()]
    lines += ["", "| check | outcome | seconds |", "|---|---|---:|"]
    lines += [
        f"| {result.name} | {result.outcome} | {result.duration_s:.1f} |"
        for result in report.results
    ]
    for result in report.results:
        lines += _details(result)
    return "\n".join(lines) + "\n"


def _details(result: CheckResult) -> Sequence[str]:
    if not result.message and not result.values:
        return ()
    lines = ["", f"## {result.name}: {result.outcome}", ""]
    if result.message:
        lines += ["```", result.message, "```"]
    return [*lines, *(f"- {name}: {_shown(value)}" for name, value in result.values.items())]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
