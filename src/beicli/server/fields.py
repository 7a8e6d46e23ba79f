"""Reads the fields of a JSON request one at a time, so a refusal names the field at fault.

Every refusal says which field it is, what it holds and what is wanted there. Unknown fields are
ignored, and null counts as left out, as clients of every API here expect.
"""

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any, TypeVar, cast

import orjson

from beicli.errors import (
    BatchTooLargeError,
    EmptyInputError,
    InputTooLongError,
    MalformedBodyError,
    RequestError,
)
from beicli.pipeline.tokenizer import TextOrIds, Truncation, TruncationDirection

_INPUT_WANTED = "a text, a list of token ids, or a list of those is wanted"
_EXCERPT_CHARACTERS = 40

Fields = Mapping[str, Any]
E = TypeVar("E", bound=StrEnum)


def parse_json_object(
    body: bytes, *, example: str, max_characters: int | None = None
) -> dict[str, Any]:
    """Read `body` as one JSON object; example: what a hint shows.

    max_characters: of any text in it.
    """
    if not body:
        raise MalformedBodyError(
            "Failed to parse the request body as JSON: the body is empty",
            hint=f"send a JSON object, such as {example}",
        )
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(
            f"Failed to parse the request body as JSON: {_explain_json_error(body, error)}",
            hint="send one JSON object in UTF-8",
        ) from error
    if not isinstance(parsed, dict):
        raise RequestError(
            f"the request body is {json_type(parsed)}; an object is wanted",
            hint=f"send a JSON object, such as {example}",
        )
    # A character takes a byte at least, so few bodies have to be looked through.
    if max_characters is not None and len(body) > max_characters:
        _check_lengths(parsed, max_characters)
    return parsed


def optional(
    fields: Fields, name: str, wanted: type, words: str, *, hint: str | None = None
) -> Any:
    """Return the field, None if it is not there or null; raises if it is of another type.

    words: the type in the client's words, such as `an integer`.
    """
    value = fields.get(name)
    # type() rather than isinstance: a bool is an int, but no number of anything.
    if value is None or type(value) is wanted:
        return value
    raise wrong_type(name, value, f"{words} or null", hint=hint)


def flag(fields: Fields, name: str, *, default: bool) -> bool:
    """Return a field that is true or false."""
    value = optional(fields, name, bool, "true, false")
    return default if value is None else bool(value)


def choice(fields: Fields, name: str, options: type[E], *, default: E) -> E:
    """Return a field that holds one of the values of `options`, in small letters or not."""
    value = fields.get(name)
    return default if value is None else member(value, options, name)


def member(value: Any, options: type[E], name: str, *, place: str | None = None) -> E:
    """Return one of `options` by its value; place: where in the field, if not all of it."""
    if isinstance(value, str):
        with suppress(ValueError):
            return options(value.lower())
    found = f"`{value[:_EXCERPT_CHARACTERS]}`" if isinstance(value, str) else json_type(value)
    *others, last = [f"`{option}`" for option in options]
    wanted = f"{', '.join(others)} or {last}"
    raise RequestError(f"`{place or name}` is {found}; {wanted} is wanted", param=name)


def truncation(fields: Fields, *, default: bool) -> Truncation:
    """Return what `truncate` and `truncation_direction` say; default: the server's own."""
    return Truncation(
        allowed=flag(fields, "truncate", default=default),
        direction=choice(
            fields, "truncation_direction", TruncationDirection, default=TruncationDirection.RIGHT
        ),
    )


def required(fields: Fields, name: str, *, hint: str) -> Any:
    """Return a field that must be there."""
    if fields.get(name) is None and name not in fields:
        raise RequestError(f"`{name}` is missing", hint=hint, param=name)
    return fields[name]


def text(fields: Fields, name: str, *, hint: str) -> str:
    """Return a field that must be there and be a text."""
    value = required(fields, name, hint=hint)
    if not isinstance(value, str):
        raise wrong_type(name, value, "a text")
    return value


def texts(fields: Fields, name: str, *, max_batch_size: int, hint: str) -> list[str]:
    """Return a field that must be a list of texts, at least one."""
    value = required(fields, name, hint=hint)
    if not isinstance(value, list):
        raise wrong_type(name, value, "a list of texts")
    if not value:
        raise EmptyInputError(
            f"`{name}` cannot be empty", hint=f"`{name}` is an empty list", param=name
        )
    check_batch_size(len(value), max_batch_size, name)
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise wrong_type(name, item, "a text", place=f"{name}[{index}]")
    return value


def inputs(
    fields: Fields, name: str, *, max_batch_size: int, hint: str
) -> tuple[list[TextOrIds], bool]:
    """Return a field of texts and token ids as a list, and whether it came as a batch."""
    value = required(fields, name, hint=hint)
    if isinstance(value, str):
        return [value], False
    if not isinstance(value, list):
        raise RequestError(f"`{name}` is {json_type(value)}; {_INPUT_WANTED}", param=name)
    if not value:
        raise EmptyInputError(
            "`inputs` cannot be empty", hint=f"`{name}` is an empty list", param=name
        )
    if type(value[0]) is int:
        check_ids(value, name, name)
        return [value], False
    check_batch_size(len(value), max_batch_size, name)
    # One pass in C over the common case.
    if set(map(type, value)) != {str}:
        for index, item in enumerate(value):
            _check_item(item, name, index)
    return cast("list[TextOrIds]", value), True


def check_batch_size(size: int, max_batch_size: int, name: str) -> None:
    """Raise BatchTooLargeError if a request holds too many inputs."""
    if size > max_batch_size:
        raise BatchTooLargeError(
            f"batch size {size} > maximum allowed batch size {max_batch_size}",
            hint=f"send at most {max_batch_size} inputs in a request",
            param=name,
        )


def check_ids(ids: list[Any], place: str, name: str, *, takes_texts: bool = True) -> None:
    """Raise RequestError unless `ids` holds integers only; place: as the client would write it.

    takes_texts: whether the field could hold texts and lists instead, which a hint then tells.
    """
    bad = next((index for index, token in enumerate(ids) if type(token) is not int), None)
    if bad is not None:
        is_nested = takes_texts and isinstance(ids[bad], str | list)
        raise RequestError(
            f"`{place}[{bad}]` is {json_type(ids[bad])}; a list of token ids holds integers only",
            hint="texts and lists of token ids go side by side in one list" if is_nested else None,
            param=name,
        )


def wrong_type(
    name: str, value: Any, wanted: str, *, place: str | None = None, hint: str | None = None
) -> RequestError:
    """Make the error for a field of the wrong type; place: where in the field, if not all of it."""
    return RequestError(
        f"`{place or name}` is {json_type(value)}; {wanted} is wanted", hint=hint, param=name
    )


def json_type(value: Any) -> str:
    """Name a parsed value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {int: "an integer", float: "a floating-point number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def num_characters(inputs: list[TextOrIds]) -> int:
    """Characters of all texts; token ids have none."""
    return sum(len(item) for item in inputs if isinstance(item, str))


def _check_lengths(parsed: dict[str, Any], max_characters: int) -> None:
    """Raise InputTooLongError if a text anywhere in a request is too long."""
    # Not by recursion: what a client nests may be deeper than Python's stack.
    waiting: list[tuple[str, str, Any]] = [(name, name, value) for name, value in parsed.items()]
    while waiting:
        name, place, value = waiting.pop()
        if isinstance(value, str) and len(value) > max_characters:
            raise InputTooLongError(
                f"`{place}` has {len(value):,} characters; {max_characters:,} are read at most",
                hint="split the text, or send its beginning: a model reads far less of it",
                param=name,
            )
        if isinstance(value, dict):
            waiting += [(name, f"{place}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            # Token ids have no length, and there may be many.
            waiting += [
                (name, f"{place}[{index}]", item)
                for index, item in enumerate(value)
                if not isinstance(item, int | float)
            ]


def _check_item(item: Any, name: str, index: int) -> None:
    if isinstance(item, str):
        return
    if not isinstance(item, list):
        raise RequestError(
            f"`{name}[{index}]` is {json_type(item)}; a text or a list of token ids is wanted",
            param=name,
        )
    check_ids(item, f"{name}[{index}]", name)


def _explain_json_error(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        # The parser does not say where the text stops being UTF-8.
        body.decode("utf-8")
    except UnicodeDecodeError as unicode_error:
        return f"invalid UTF-8 at byte {unicode_error.start}"
    return f"{error.msg} at line {error.lineno} column {error.colno}"
