"""`--set key.path=value`: single values given on the command line, in place of the file's."""

from collections.abc import Mapping, Sequence

from beicli.config.keys import ENGINE_SECTION, known_prefix, suggest
from beicli.config.problems import (
    OVERRIDE,
    UNKNOWN_KEY,
    ConfigProblem,
    KeyPath,
    config_error,
    describe_type,
    format_key_path,
)
from beicli.config.source import ConfigSource
from beicli.config.yaml_source import parse_yaml
from beicli.errors import ConfigError, UsageError

_FORM_HINT = "write `--set key.path=value`, such as `--set trt_llm.build.max_num_tokens=4096`"
_QUOTE_HINT = "put the value in quotes if it is text, or in `{...}` or `[...]` if it is not"


def apply_overrides(
    source: ConfigSource, overrides: Sequence[str]
) -> tuple[ConfigSource, tuple[ConfigProblem, ...]]:
    """The source with every override in place, the later over the earlier, and what is wrong.

    overrides: each `key.path=value`, the path in full, the value a YAML scalar or flow
    collection; nothing after the `=` means null. An override with a problem is left out.
    Raises UsageError when one cannot be read at all.
    """
    problems: list[ConfigProblem] = []
    for override in overrides:
        path, value = _parse(override)
        problem = _unknown_key(path) or _blocked_path(source, path)
        if problem is None:
            source = _with_value(source, path, value)
        else:
            problems.append(problem)
    return source, tuple(problems)


def _parse(override: str) -> tuple[tuple[str, ...], object]:
    key_path, separator, text = override.partition("=")
    path = tuple(part.strip() for part in key_path.split("."))
    if not separator or not all(path):
        raise UsageError(f"`--set {override}` is not of the form `key.path=value`", hint=_FORM_HINT)
    try:
        document = parse_yaml(text, name=text)
        if document.problems:
            raise config_error(document.problems, name=text)
    except ConfigError as error:
        raise UsageError(
            f"`--set {override}` cannot be read: {error.message}", hint=error.hint or _QUOTE_HINT
        ) from error
    if isinstance(document.value, dict | list) and not text.lstrip().startswith(("{", "[")):
        raise UsageError(
            f"`--set {override}` holds a collection without brackets", hint=_QUOTE_HINT
        )
    return path, document.value


def _unknown_key(path: tuple[str, ...]) -> ConfigProblem | None:
    """Refuse a key that no config holds: given by hand, it is certain to be a mistake."""
    num_known, section = known_prefix(path)
    if num_known == len(path):
        return None
    hint = None
    in_engine = (ENGINE_SECTION, *path)
    if known_prefix(in_engine)[0] == len(in_engine):
        hint = f"did you mean `{format_key_path(in_engine)}`?"
    elif section is not None and (suggestion := suggest(path[: num_known + 1], section)):
        hint = f"did you mean `{suggestion.text}`?"
    return ConfigProblem(
        key_path=format_key_path(path),
        line=None,
        message=UNKNOWN_KEY,
        hint=hint,
        is_override=True,
        rule=OVERRIDE,
    )


def _blocked_path(source: ConfigSource, path: tuple[str, ...]) -> ConfigProblem | None:
    """Refuse to reach through a value of the file that is not a mapping."""
    value: object = source.root
    for position, name in enumerate(path):
        if not isinstance(value, dict | None):
            return source.problem(
                path[:position],
                f"`--set` needs a mapping here, found {describe_type(value)}",
                rule=OVERRIDE,
            )
        value = value.get(name) if value else None
    return None


def _with_value(source: ConfigSource, path: KeyPath, value: object) -> ConfigSource:
    return ConfigSource(
        root=_replaced(source.root, path, value),
        lines={key: line for key, line in source.lines.items() if key[: len(path)] != path},
        overridden=source.overridden | {path},
    )


def _replaced(mapping: object, path: KeyPath, value: object) -> dict[str, object]:
    """A copy of `mapping`, or of an empty one if it is None, with `value` at `path`."""
    copy: dict[str, object] = dict(mapping) if isinstance(mapping, Mapping) else {}
    name, *rest = path
    copy[str(name)] = _replaced(copy.get(str(name)), tuple(rest), value) if rest else value
    return copy
