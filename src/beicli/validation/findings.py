"""What a check found, as values: the same for a config, an engine directory and a server.

A `Rule` says what is checked and why it matters; a `Finding` is one place that breaks it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a finding is, worst first; an error fails the target."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that is checked.

    name: stable and unique, in kebab case; scripts match on it.
    why: what happens if nobody heeds it, one sentence.
    """

    name: str
    level: Level
    why: str

    def broken(
        self, what: str, *, fix: str | None = None, place: str = "", line: int | None = None
    ) -> "Finding":
        """Report one place that breaks this rule."""
        return Finding(
            rule=self.name,
            level=self.level,
            place=place,
            line=line,
            what=what,
            why=self.why,
            fix=fix,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with a target, or worth knowing.

    place: dotted key path of a config, file of an engine, route of a server; empty for the whole.
    line: of the config file, from 1; None where no line can be named.
    what: what was found and what was wanted. fix: what to do, None if there is nothing to do.
    """

    rule: str
    level: Level
    place: str
    line: int | None
    what: str
    why: str
    fix: str | None


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
