"""What a check can find, as values: the same for a config, an engine directory and a server.

A `Rule` says what is checked and why it matters; a `Finding` is one place that breaks it.
"""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is, worst first; an error fails the target."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


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
        self,
        what: str,
        *,
        fix: str | None = None,
        place: str = "",
        reproduce: str | None = None,
    ) -> "Finding":
        """Report one place that breaks this rule."""
        return Finding(
            rule=self.name,
            level=self.level,
            place=place,
            what=what,
            why=self.why,
            fix=fix,
            reproduce=reproduce,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with a target, or worth knowing.

    place: dotted key path of a config, file of an engine, route of a server; empty for the whole.
    line: of the config file, from 1; None where no line can be named.
    is_override: whether the place was written by `--set`, not in the file.
    what: what was found and what was wanted. fix: what to do, None if there is nothing to do.
    reproduce: the request to a server that shows it, a `curl` command; two of them, a line each,
        where answers are compared; else None.
    """

    rule: str
    level: Level
    place: str
    line: int | None = None
    is_override: bool = False
    what: str
    why: str
    fix: str | None
    reproduce: str | None = None
