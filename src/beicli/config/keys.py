"""The keys a config may hold, read off the schema: for unknown keys, `--set` and the docs."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import PlainValidator
from typing_extensions import Doc

from beicli.config.schema import Config

# From here on two spellings are taken for the same word. At 0.8, `checkpoint_repo` finds
# `checkpoint_repository`, and `bei_torch_version`, a key newer Truss has, does not find
# `bei_bert_version`.
SAME_WORD_RATIO = 0.8

# The section whose unknown keys are worth a word; outside it, Truss has many keys of its own.
ENGINE_SECTION = "trt_llm"

# Stands for the name the user chooses, in the path of a key below an open mapping.
ANY_NAME = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key: its type, limits, default and meaning.

    type_: the type without its metadata and without None.
    constraints: what narrows the type down, such as `Gt(64)`.
    section: the dataclass whose fields are the keys below, or None.
    entries: for a mapping with names of the user's choice, the dataclass of its values, or None.
    default: `dataclasses.MISSING` when the key is required.
    """

    name: str
    type_: Any
    is_optional: bool
    constraints: tuple[object, ...]
    section: type | None
    entries: type | None
    default: object
    meaning: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a closed set, in their order; empty for any other type."""
        if get_origin(self.type_) is Literal:
            return get_args(self.type_)
        if isinstance(self.type_, type) and issubclass(self.type_, StrEnum):
            return tuple(self.type_)
        return ()

    @property
    def is_open(self) -> bool:
        """Whether the names below are the user's own."""
        return get_origin(self.type_) is Mapping


@cache
def keys_of(section: type) -> dict[str, Key]:
    """The keys of one section, by name, in the order of the schema."""
    hints = get_type_hints(section, include_extras=True)
    return {entry.name: _key(entry, hints[entry.name]) for entry in dataclasses.fields(section)}


def all_keys(section: type = Config, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, Key]]:
    """Every key with its dotted path, each section's own keys before those further down."""
    for name, key in keys_of(section).items():
        yield ".".join((*prefix, name)), key
    for name, key in keys_of(section).items():
        if key.section is not None:
            yield from all_keys(key.section, (*prefix, name))
        if key.entries is not None:
            yield from all_keys(key.entries, (*prefix, name, ANY_NAME))


def known_prefix(path: tuple[str, ...]) -> tuple[int, type | None]:
    """How many leading parts of `path` a config can hold, and the section they lead to.

    The section is None when they lead to a value, or into a mapping with names of its own.
    """
    section: type | None = Config
    key: Key | None = None
    for position, name in enumerate(path):
        if section is not None:
            if name not in keys_of(section):
                return position, section
            key = keys_of(section)[name]
            section = key.section
        elif key is not None and key.is_open:
            section = key.entries
            key = None if section is not None else key
        else:
            return position, None
    return len(path), section


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """The key a user is likely to have meant; `text` is how to name it to them."""

    path: tuple[str, ...]
    text: str


def suggest(path: tuple[str, ...], section: type) -> Suggestion | None:
    """The known key meant by the last part of `path`, which `section` does not have.

    That is a key of this name in another section, or one of this section spelled much alike.
    """
    *parent, name = path
    elsewhere = [dotted.split(".") for dotted, _ in all_keys() if ANY_NAME not in dotted]
    elsewhere.sort(key=lambda other: other[0] != ENGINE_SECTION)
    for other in elsewhere:
        if other[-1] == name:
            return Suggestion(path=tuple(other), text=".".join(other))
    near = closest(name, keys_of(section), ratio=SAME_WORD_RATIO)
    return Suggestion(path=(*parent, near), text=near) if near is not None else None


def closest(word: str, candidates: Iterable[str], *, ratio: float) -> str | None:
    """The candidate most like `word`, if at least so alike; case and hyphens do not count."""
    by_spelling = {_normalized(candidate): candidate for candidate in candidates}
    matches = get_close_matches(_normalized(word), by_spelling, n=1, cutoff=ratio)
    return by_spelling[matches[0]] if matches else None


def _normalized(word: str) -> str:
    return word.lower().replace("-", "_")


def _key(entry: dataclasses.Field[Any], hint: Any) -> Key:
    type_, constraints, is_optional = _unwrap(hint)
    meanings = [part.documentation for part in constraints if isinstance(part, Doc)]
    # A value with a parser of its own is written as one word, whatever it becomes.
    is_parsed = any(isinstance(part, PlainValidator) for part in constraints)
    entries = get_args(type_)[1] if get_origin(type_) is Mapping else None
    default = entry.default
    if entry.default_factory is not dataclasses.MISSING:
        default = entry.default_factory()
    return Key(
        name=entry.name,
        type_=type_,
        is_optional=is_optional,
        constraints=tuple(part for part in constraints if not isinstance(part, Doc)),
        section=None if is_parsed else _as_section(type_),
        entries=_as_section(entries),
        default=default,
        meaning=meanings[0],
    )


def _as_section(type_: Any) -> type | None:
    return type_ if isinstance(type_, type) and dataclasses.is_dataclass(type_) else None


def _unwrap(hint: Any) -> tuple[Any, tuple[object, ...], bool]:
    """Split a type into itself, its metadata, and whether None is allowed."""
    if get_origin(hint) is Annotated:
        type_, inner, is_optional = _unwrap(hint.__origin__)
        return type_, (*inner, *hint.__metadata__), is_optional
    if get_origin(hint) in {types.UnionType, typing.Union}:
        (hint,) = (member for member in get_args(hint) if member is not type(None))
        type_, inner, _ = _unwrap(hint)
        return type_, inner, True
    return hint, (), False
