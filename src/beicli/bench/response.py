"""Read what a server answered: check the embeddings of a 200, find the message of an error.

Pure. `read_answer` looks at everything. `QuickCheck` counts and searches bytes instead of parsing:
parsing floats would keep the client busy while the server waits for its next request.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from beicli.bench.settings import EncodingFormat

# Counts the key once an item, and also the value of `"object": "embedding"` where it is sent.
_ITEM_MARK = b'"embedding"'
_USAGE_KEY = b'"prompt_tokens"'
_USAGE = re.compile(_USAGE_KEY + rb"\s*:\s*(\d+)")
_FLOAT32_BYTES = 4
_MAX_MESSAGE_CHARACTERS = 200


class InvalidResponseError(ValueError):
    """A server answered 200, but not with the embeddings that were asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response tells beside the vectors; None where the server is silent."""

    num_tokens: int | None
    model: str | None


@dataclass(frozen=True, slots=True)
class QuickCheck:
    """Recognises responses like one that was read in full, for requests of the same size.

    It sees a missing item, a truncated body and the token count. It does not see a wrong index or
    a vector of the wrong length, so now and then a response is still read in full.
    """

    num_item_marks: int

    @classmethod
    def learn(cls, verified_body: bytes) -> "QuickCheck":
        return cls(num_item_marks=verified_body.count(_ITEM_MARK))

    def num_tokens(self, body: bytes) -> int | None:
        """The server's token count, if any; raises `InvalidResponseError`."""
        num_item_marks = body.count(_ITEM_MARK)
        if num_item_marks != self.num_item_marks:
            raise InvalidResponseError(
                f"{num_item_marks} times {_ITEM_MARK.decode()} in a response that should have "
                f"{self.num_item_marks}"
            )
        if not body[-8:].rstrip().endswith(b"}"):
            raise InvalidResponseError("the response ends in the middle")
        # Servers write `usage` last, so searching from the end stops early.
        position = body.rfind(_USAGE_KEY)
        match = _USAGE.match(body, position) if position >= 0 else None
        return int(match[1]) if match else None


def read_answer(
    body: bytes, *, num_texts: int, encoding_format: EncodingFormat, dimensions: int | None
) -> Answer:
    """Check that `body` has one vector for each text; raises `InvalidResponseError`.

    Indices must be 0 to `num_texts` - 1, in any order; vectors must be of one length, which is
    `dimensions` when that was asked for, and written in `encoding_format`.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidResponseError(f"the response is not JSON: {error}") from error
    items = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidResponseError("the response has no list `data` of objects")
    if len(items) != num_texts:
        raise InvalidResponseError(f"{len(items)} vectors for {num_texts} texts")
    if {item.get("index") for item in items if _is_int(item.get("index"))} != set(range(num_texts)):
        raise InvalidResponseError(f"the indices are not 0 to {num_texts - 1}")
    lengths = {_vector_length(item.get("embedding"), encoding_format) for item in items}
    if len(lengths) > 1:
        raise InvalidResponseError(f"vectors of different lengths: {sorted(lengths)}")
    if dimensions is not None and lengths != {dimensions}:
        raise InvalidResponseError(f"vectors of length {lengths.pop()}, wanted {dimensions}")
    usage = answer.get("usage")
    num_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    model = answer.get("model")
    return Answer(
        num_tokens=num_tokens if _is_int(num_tokens) else None,
        model=model if isinstance(model, str) else None,
    )


def error_message(content: bytes) -> str:
    """What an error body says, in any of the shapes embeddings servers use."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    error = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail")
    if not isinstance(error, str):
        error = content[: 4 * _MAX_MESSAGE_CHARACTERS].decode("utf-8", "replace")
    return printable_line(error) or "empty body"


def printable_line(text: str) -> str:
    """One line of printable characters: it may come from a foreign server and go to a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= _MAX_MESSAGE_CHARACTERS:
        return line
    return line[:_MAX_MESSAGE_CHARACTERS] + "…"


def _vector_length(embedding: Any, encoding_format: EncodingFormat) -> int:
    wanted = str if encoding_format is EncodingFormat.BASE64 else list
    if not isinstance(embedding, wanted):
        raise InvalidResponseError(
            f"a vector is of type `{type(embedding).__name__}`, which is not {encoding_format}"
        )
    if isinstance(embedding, str):
        # Every four characters hold three bytes; the text is not decoded, only measured.
        padding = embedding[-2:].count("=")
        length, odd_bytes = divmod(len(embedding) // 4 * 3 - padding, _FLOAT32_BYTES)
        is_sound = len(embedding) % 4 == 0 and odd_bytes == 0
    else:
        length = len(embedding)
        is_sound = set(map(type, embedding)) <= {float, int}
    if not is_sound or length == 0:
        raise InvalidResponseError(f"a vector is empty or not {encoding_format} numbers")
    return length


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
