"""A config before it is checked: plain values, and where each of them was written."""

from collections.abc import Mapping
from dataclasses import dataclass

from beicli.config.problems import CONFIG_SCHEMA, ConfigProblem, KeyPath, format_key_path
from beicli.findings import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSource:
    """What the user wrote, from the file and from `--set`.

    root: the whole document, a mapping of JSON values.
    lines: line of each key and list item of the file.
    overridden: paths that `--set` wrote; everything below them came along.
    """

    root: Mapping[str, object]
    lines: Mapping[KeyPath, int]
    overridden: frozenset[KeyPath] = frozenset()

    def problem(
        self,
        path: KeyPath,
        message: str,
        *,
        hint: str | None = None,
        rule: Rule = CONFIG_SCHEMA,
    ) -> ConfigProblem:
        """A problem placed at `path`, or at the nearest enclosing key that was written."""
        line, is_override = self.locate(path)
        return ConfigProblem(
            key_path=format_key_path(path),
            line=line,
            message=message,
            hint=hint,
            is_override=is_override,
            rule=rule,
        )

    def value_at(self, *path: str) -> object:
        """What was written at `path`; None if nothing was."""
        value: object = self.root
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def locate(self, path: KeyPath) -> tuple[int | None, bool]:
        """Line of `path`, or of the nearest enclosing key written, and whether `--set` wrote it."""
        for length in range(len(path), 0, -1):
            prefix = path[:length]
            if prefix in self.overridden:
                return None, True
            if prefix in self.lines:
                return self.lines[prefix], False
        return None, False
