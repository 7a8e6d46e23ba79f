"""What is wrong with a config, as values: where it stands, what it is, what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from beicli.errors import ConfigError
from beicli.findings import Level, Rule

KeyPath = tuple[str | int, ...]

UNKNOWN_KEY = "unknown key"

CONFIG_FILE = Rule(
    name="config-file",
    level=Level.ERROR,
    why="nothing can be read from it",
)
CONFIG_SCHEMA = Rule(
    name="config-schema",
    level=Level.ERROR,
    why="Truss refuses it too, and a build would not know what is meant",
)
DUPLICATE_KEY = Rule(
    name="duplicate-key",
    level=Level.ERROR,
    why="one of the two has no effect, and which one is up to the program that reads the file",
)
UNUSABLE_VALUE = Rule(
    name="unusable-value",
    level=Level.ERROR,
    why="a configuration travels as JSON, which has no such value",
)
OVERRIDE = Rule(
    name="override",
    level=Level.ERROR,
    why="the command line asks for what no configuration can say",
)
UNKNOWN_CONFIG_KEY = Rule(
    name="unknown-key",
    level=Level.WARNING,
    why="nothing reads it, so whatever it was meant to change stays as it is",
)
RULES = (
    CONFIG_FILE,
    CONFIG_SCHEMA,
    DUPLICATE_KEY,
    UNUSABLE_VALUE,
    OVERRIDE,
    UNKNOWN_CONFIG_KEY,
)

_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    dict: "a mapping",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "text",
    type(None): "nothing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigProblem:
    """One thing wrong with a config, or worth a warning.

    key_path: dotted, such as `trt_llm.build.max_num_tokens`; empty for the file as a whole.
    line: counted from 1; None where no line can be named.
    is_override: the value came from `--set`, not from the file.
    rule: what is broken, with its level.
    """

    key_path: str
    line: int | None
    message: str
    hint: str | None = None
    is_override: bool = False
    rule: Rule = CONFIG_SCHEMA

    def __str__(self) -> str:
        """The problem with its place, without the hint."""
        place = f" (line {self.line})" if self.line is not None else ""
        if self.is_override:
            place = " (`--set`)"
        if not self.key_path:
            return f"{self.message}{place}"
        if self.message == UNKNOWN_KEY:
            return f"{UNKNOWN_KEY} `{self.key_path}`{place}"
        return f"`{self.key_path}`{place}: {self.message}"


def format_key_path(path: KeyPath) -> str:
    """Dotted spelling of a path; list positions in brackets, unprintable keys as Python text."""
    spelled = ""
    for part in path:
        if isinstance(part, int):
            spelled += f"[{part}]"
        else:
            spelled += f".{part if part.isprintable() and part else repr(part)}"
    return spelled.removeprefix(".")


def describe_type(value: object) -> str:
    """What a reader of YAML would call the type of a JSON value."""
    return _TYPE_NAMES[type(value)]


def config_error(problems: Sequence[ConfigProblem], *, name: str) -> ConfigError:
    """One error for all problems in the config called `name`; there must be at least one.

    A single problem keeps its hint apart; of several, each line carries its own hint.
    """
    if len(problems) == 1:
        return ConfigError(str(problems[0]), hint=problems[0].hint, problems=tuple(problems))
    lines = [f"{len(problems)} problems in `{name}`"]
    for problem in problems:
        hint = f"; {problem.hint}" if problem.hint else ""
        lines.append(f"  {problem}{hint}")
    return ConfigError("\n".join(lines), problems=tuple(problems))
