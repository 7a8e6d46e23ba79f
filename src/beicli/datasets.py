"""Texts to measure speed with, or to calibrate on: the bundled ones, or a file's.

A dataset holds distinct texts, none of them blank, in the order of the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from beicli.errors import UsageError

BUNDLED_NAME = "bundled"
_HINT = (
    "wanted one text a line (`.txt`), or one JSON string or object with `text` or `messages` "
    "(`.jsonl`)"
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Distinct texts and where they come from."""

    name: str
    texts: tuple[str, ...]


def bundled_dataset() -> Dataset:
    """About 120 English texts of 3 to 235 words: queries, sentences, paragraphs, essays.

    Written for this project, so they may be sent anywhere.
    """
    content = resources.files("beicli").joinpath("data/texts.txt").read_text("utf-8")
    return Dataset(name=BUNDLED_NAME, texts=tuple(content.splitlines()))


def read_dataset(path: Path) -> Dataset:
    """Read `.txt` (or a file without suffix) or `.jsonl`; blank lines are skipped.

    Repeated texts are kept once. Raises `UsageError` naming the file, and the line at fault.
    """
    if path.suffix not in ("", ".txt", ".jsonl"):
        raise UsageError(f"dataset `{path}` has the unknown suffix `{path.suffix}`", hint=_HINT)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot read dataset `{path}`: {reason}") from error
    # A dictionary keeps the order of the file and drops what is repeated.
    distinct = dict.fromkeys(_texts(path, content, is_jsonl=path.suffix == ".jsonl"))
    if not distinct:
        raise UsageError(f"dataset `{path}` holds no text", hint=_HINT)
    return Dataset(name=str(path), texts=tuple(distinct))


def _texts(path: Path, content: bytes, *, is_jsonl: bool) -> Iterator[str]:
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"`{path}` line {number} is not UTF-8", hint=_HINT) from error
        yield _json_text(path, number, line) if is_jsonl else line.strip()


def _json_text(path: Path, number: int, line: str) -> str:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"`{path}` line {number} is not JSON: {error}", hint=_HINT) from error
    text = _text_of_object(value) if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UsageError(f"`{path}` line {number} holds no text", hint=_HINT)
    if not text.strip():
        raise UsageError(
            f"`{path}` line {number} holds an empty text", hint="servers refuse empty inputs"
        )
    return text


def _text_of_object(value: dict[str, Any]) -> object:
    """Return `text`, or what the `messages` of a conversation say, one after the other."""
    messages = value.get("messages")
    if "text" in value or not isinstance(messages, list):
        return value.get("text")
    contents = [each.get("content") for each in messages if isinstance(each, dict)]
    return "\n".join(content for content in contents if isinstance(content, str))
