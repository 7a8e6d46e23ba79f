"""The verdict on a target: a configuration, an engine directory or a running server."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from beicli.findings import Finding, Level, Rule

__all__ = [
    "Finding",
    "Level",
    "Rule",
    "TargetKind",
    "TargetReport",
    "Verdict",
    "worst_first",
    "worst_verdict",
]


class Verdict(StrEnum):
    """The outcome for a target, or for all of them."""

    FAILED = "failed"
    WARNINGS = "warnings"
    CLEAN = "clean"


class TargetKind(StrEnum):
    """What was named on the command line."""

    CONFIG = "config"
    ENGINE = "engine"
    SERVER = "server"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReport:
    """Everything found in one target.

    num_checks: how many rules, files or requests were checked, the good ones included.
    facts: what the checks learned beside findings, JSON values.
    """

    target: str
    kind: TargetKind
    findings: tuple[Finding, ...]
    num_checks: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        levels = {finding.level for finding in self.findings}
        if Level.ERROR in levels:
            return Verdict.FAILED
        return Verdict.WARNINGS if Level.WARNING in levels else Verdict.CLEAN


def worst_first(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Sort by level, keeping the order of equals."""
    order = list(Level)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def worst_verdict(reports: Iterable[TargetReport]) -> Verdict:
    """Return the verdict on all targets together."""
    order = list(Verdict)
    return min((report.verdict for report in reports), key=order.index, default=Verdict.CLEAN)
