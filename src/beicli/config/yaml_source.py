"""YAML read into plain JSON values that remember their lines.

Scalars mean what PyYAML's SafeLoader says, so `on` and `yes` are true and `010` is eight. Three
things differ: a key given twice is a problem, dates stay text, and keys are always text.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from beicli.config.problems import (
    CONFIG_FILE,
    DUPLICATE_KEY,
    UNUSABLE_VALUE,
    ConfigProblem,
    KeyPath,
    config_error,
    format_key_path,
)
from beicli.errors import ConfigError

# Far above any real config, far below what an alias bomb unfolds to.
MAX_VALUES = 50_000
MAX_DEPTH = 64

# What JSON readers in other languages, and orjson, still hold exactly.
_MAX_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
# YAML 1.1 gives a bare `=` and a bare `<<` tags of their own; as values they are text.
_TEXT_TAGS = {f"{_TAG}str", f"{_TAG}value", f"{_TAG}merge"}
_PLAIN_TAGS = {f"{_TAG}null", f"{_TAG}bool", f"{_TAG}int", f"{_TAG}float"}


class _Loader(yaml.SafeLoader):
    """SafeLoader without dates, which JSON cannot carry."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlDocument:
    """A document's values, the line of each key and list item, and the keys given twice."""

    value: object
    lines: dict[KeyPath, int]
    problems: tuple[ConfigProblem, ...]


def parse_yaml(text: str, *, name: str) -> YamlDocument:
    """Read one YAML document, which messages call `name`. Raises ConfigError."""
    return _Reader(text, name).read()


class _Reader:
    """One pass over one document."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._lines: dict[KeyPath, int] = {}
        # By node: what an alias repeats is still one mistake.
        self._problems: dict[yaml.Node, ConfigProblem] = {}
        self._num_values = 0
        try:
            self._loader = _Loader(text)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._failure(
                f"holds the control character {chr(error.character)!r}", line
            ) from None

    def read(self) -> YamlDocument:
        try:
            node = self._loader.get_single_node()
            value = None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as error:
            raise self._syntax_failure(error) from None
        except (ValueError, OverflowError):  # PyYAML's own, for an escape beyond Unicode
            line = self._loader.line + 1
            raise self._failure("is not valid YAML: an escape names no character", line) from None
        except RecursionError:
            raise self._failure(f"is nested more than {MAX_DEPTH} deep", None) from None
        return YamlDocument(value=value, lines=self._lines, problems=tuple(self._problems.values()))

    def _value(self, node: yaml.Node, path: KeyPath) -> object:
        self._count(node)
        if len(path) > MAX_DEPTH:
            raise self._failure(f"is nested more than {MAX_DEPTH} deep", _line(node))
        self._lines.setdefault(path, _line(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT_TAGS:
            return self._text(node, path)
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
            return self._plain(node, path)
        tag = node.tag.replace(_TAG, "!!")
        raise self._value_failure(node, path, f"the YAML tag `{tag}` has no meaning here")

    def _count(self, node: yaml.Node) -> None:
        """Take one more value into account: aliases and merges make many of few."""
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise self._failure(f"unfolds to more than {MAX_VALUES:,} values", _line(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        values: dict[str, object] = {}
        first_lines: dict[str, int] = {}
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merges.append(value_node)
                continue
            key = self._key(key_node, path)
            if key in first_lines:
                self._note_duplicate(key_node, (*path, key), first_lines[key])
                continue
            first_lines[key] = _line(key_node)
            self._lines.setdefault((*path, key), _line(key_node))
            values[key] = self._value(value_node, (*path, key))
        for merged in self._merged_mappings(merges, path):
            for key, value in self._mapping(merged, path).items():
                values.setdefault(key, value)
        return values

    def _merged_mappings(
        self, merges: list[yaml.Node], path: KeyPath
    ) -> Iterator[yaml.MappingNode]:
        for node in merges:
            members = node.value if isinstance(node, yaml.SequenceNode) else [node]
            for member in members:
                if not isinstance(member, yaml.MappingNode):
                    raise self._value_failure(node, path, "`<<` can only merge mappings")
                self._count(member)
                yield member

    def _note_duplicate(self, node: yaml.Node, path: KeyPath, first_line: int) -> None:
        problem = ConfigProblem(
            key_path=format_key_path(path),
            line=_line(node),
            message=f"duplicate key, first on line {first_line}",
            hint="keep one of the two",
            rule=DUPLICATE_KEY,
        )
        self._problems.setdefault(node, problem)

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._value_failure(node, path, "a key must be text")
        return self._text(node, path)

    def _text(self, node: yaml.ScalarNode, path: KeyPath) -> str:
        # JSON escapes characters beyond 16 bits as pairs; PyYAML leaves the halves apart.
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._value_failure(node, path, "half a surrogate pair is no text") from None

    def _plain(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        type_name = node.tag.removeprefix(_TAG)
        try:
            value: object = self._loader.construct_object(node)
        except (ValueError, LookupError, ArithmeticError):
            text = node.value[:40]
            raise self._value_failure(node, path, f"`{text}` is no YAML {type_name}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self._value_failure(node, path, f"`{node.value}` is not a finite number")
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            raise self._value_failure(node, path, "a whole number must fit into 64 bits")
        return value

    def _syntax_failure(self, error: yaml.MarkedYAMLError) -> ConfigError:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = error.problem or "it cannot be read"
        if r"'\t'" in problem:
            return self._failure(
                "is not valid YAML: a tab stands where only spaces may",
                line,
                hint="indent with spaces",
            )
        where = f"{error.context}, " if error.context else ""
        return self._failure(f"is not valid YAML: {where}{problem}", line)

    def _failure(self, what: str, line: int | None, *, hint: str | None = None) -> ConfigError:
        problem = ConfigProblem(
            key_path="", line=line, message=f"`{self._name}` {what}", hint=hint, rule=CONFIG_FILE
        )
        return config_error([problem], name=self._name)

    def _value_failure(self, node: yaml.Node, path: KeyPath, message: str) -> ConfigError:
        problem = ConfigProblem(
            key_path=format_key_path(path), line=_line(node), message=message, rule=UNUSABLE_VALUE
        )
        return config_error([problem], name=self._name)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
