"""Read what a server answered: check the embeddings of a 200, find the message of an error.

Pure. `read_embeddings` looks at everything. `QuickCheck` counts and searches bytes instead of
parsing, which would keep the client busy while the server waits for its next request.
"""

import base64
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from beicli.bench.settings import EncodingFormat

_USAGE_KEY = b'"prompt_tokens"'
_USAGE = re.compile(_USAGE_KEY + rb"\s*:\s*(\d+)")
_FLOAT32_BYTES = 4
# A vector of one number takes more than this with the keys around it.
_SLACK_BYTES = 24
_MAX_MESSAGE_CHARACTERS = 200


class InvalidResponseError(ValueError):
    """A server answered 200, but not with what was asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response tells beside the vectors; None where the server is silent."""

    num_tokens: int | None
    model: str | None


class QuickCheck:
    """Recognises answers like one that was read in full, for requests of the same size.

    It sees a missing item, a truncated body and the token count. It does not see a wrong index or
    a number that is none, so now and then an answer is still read in full.
    """

    def __init__(self, verified_body: bytes, *, mark: bytes | None) -> None:
        """Learn from an answer; mark: a key that each item has, None to go by length."""
        self._mark = mark
        self._wanted = _measure(verified_body, mark)
        # Token counts and the model's name may differ by some digits, never by a whole vector.
        self._slack = _SLACK_BYTES if mark is None else 0

    def num_tokens(self, body: bytes) -> int | None:
        """The server's token count, if any; raises `InvalidResponseError`."""
        found = _measure(body, self._mark)
        if abs(found - self._wanted) > self._slack:
            what = "bytes" if self._mark is None else f"times {self._mark.decode()}"
            raise InvalidResponseError(
                f"{found} {what} in an answer that should have {self._wanted}"
            )
        if not body[-8:].rstrip().endswith((b"}", b"]")):
            raise InvalidResponseError("the response ends in the middle")
        # Servers write `usage` last, so searching from the end stops early.
        position = body.rfind(_USAGE_KEY)
        match = _USAGE.match(body, position) if position >= 0 else None
        return int(match[1]) if match else None


def _measure(body: bytes, mark: bytes | None) -> int:
    return len(body) if mark is None else body.count(mark)


def read_embeddings(
    body: bytes, *, num_texts: int, encoding_format: EncodingFormat, dimensions: int | None
) -> Answer:
    """Check that `body` has one vector for each text; raises `InvalidResponseError`.

    Indices must be 0 to `num_texts` - 1, in any order; vectors must be of one length, which is
    `dimensions` when that was asked for, and written in `encoding_format`.
    """
    answer = read_json(body)
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


def read_json(body: bytes) -> Any:
    """Parse a body; raises `InvalidResponseError` when it is not JSON.

    JSON has no infinity and no NaN, so what parses as a number is finite.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidResponseError(f"the response is not JSON: {error}") from error


def read_model_name(info: str | None) -> str | None:
    """Return the `model_id` of text-embeddings-inference's `/info`, which bei has too."""
    try:
        value = orjson.loads(info or "")
    except orjson.JSONDecodeError:
        return None
    name = value.get("model_id") if isinstance(value, dict) else None
    return printable_line(name) if isinstance(name, str) else None


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
        try:
            content = base64.b64decode(embedding, validate=True)
        except ValueError:
            content = b""
        length, odd_bytes = divmod(len(content), _FLOAT32_BYTES)
        is_sound = odd_bytes == 0 and bool(np.isfinite(np.frombuffer(content, "<f4")).all())
    else:
        length = len(embedding)
        is_sound = set(map(type, embedding)) <= {float, int}
    if not is_sound or length == 0:
        raise InvalidResponseError(f"a vector is empty or not {encoding_format} numbers")
    return length


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
