"""JSON in and JSON out of the embeddings routes, by hand: this is the hot path.

Requests are checked one field at a time, so a refusal names the field, what it holds and what is
wanted there. Responses are assembled from bytes; a vector never becomes Python floats.
"""

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import orjson

from beicli.engine.batch import Float32
from beicli.errors import BatchTooLargeError, EmptyInputError, MalformedBodyError, RequestError
from beicli.pipeline.tokenizer import TextOrIds

EncodingFormat = Literal["float", "base64"]

_INPUT_WANTED = "a text, a list of token ids, or a list of those is wanted"


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A body of `/v1/embeddings` that has been checked.

    is_batch: whether the client sent a list of inputs, if only of one.
    """

    inputs: Sequence[TextOrIds]
    is_batch: bool
    dimensions: int | None
    encoding_format: EncodingFormat
    model: str | None

    @property
    def num_characters(self) -> int:
        """Characters of all texts; token ids have none."""
        return sum(len(item) for item in self.inputs if isinstance(item, str))


def parse_embeddings_request(body: bytes, *, max_client_batch_size: int) -> EmbeddingsRequest:
    """Read a request body; unknown keys are ignored.

    Raises MalformedBodyError if it is not JSON, RequestError naming the field that is wrong.
    """
    fields = parse_json_object(body)
    if "input" not in fields:
        raise RequestError(
            "`input` is missing", hint=_hint_for_missing_input(fields), param="input"
        )
    inputs, is_batch = _parse_input(fields["input"], max_client_batch_size)
    return EmbeddingsRequest(
        inputs=inputs,
        is_batch=is_batch,
        dimensions=_optional(fields, "dimensions", int, "an integer"),
        encoding_format=_parse_encoding_format(fields.get("encoding_format")),
        model=_optional(fields, "model", str, "a string"),
    )


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Read `body` as one JSON object."""
    if not body:
        raise MalformedBodyError(
            "Failed to parse the request body as JSON: the body is empty",
            hint='send a JSON object, such as {"input": "some text"}',
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
            f"the request body is {_json_type(parsed)}; an object is wanted",
            hint='send a JSON object, such as {"input": "some text"}',
        )
    return parsed


def create_response(
    embeddings: Float32, *, encoding_format: EncodingFormat, model: str, num_tokens: int
) -> bytes:
    """Return the JSON of a `CreateEmbeddingResponse`.

    embeddings: [num_inputs, dimensions]; base64 rows are little-endian float32.
    """
    assemble = _base64_data if encoding_format == "base64" else _float_data
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (num_tokens, num_tokens)
    return b'{"object":"list","data":%b,"model":%b,%b}' % (
        assemble(embeddings),
        orjson.dumps(model),
        usage,
    )


def _base64_data(embeddings: Float32) -> bytes:
    rows = np.ascontiguousarray(embeddings, dtype="<f4")
    row_bytes = rows.shape[1] * rows.itemsize
    raw = rows.data.cast("B")
    encode = binascii.b2a_base64
    items = [
        b'{"object":"embedding","embedding":"%b","index":%d}'
        % (encode(raw[start : start + row_bytes], newline=False), index)
        for index, start in enumerate(range(0, len(raw), row_bytes))
    ]
    return b"[%b]" % b",".join(items)


def _float_data(embeddings: Float32) -> bytes:
    rows = np.ascontiguousarray(embeddings)
    return orjson.dumps(
        [
            {"object": "embedding", "embedding": row, "index": index}
            for index, row in enumerate(rows)
        ],
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _parse_input(value: Any, max_client_batch_size: int) -> tuple[list[TextOrIds], bool]:
    """Return the inputs and whether they came as a batch."""
    if isinstance(value, str):
        return [value], False
    if not isinstance(value, list):
        raise RequestError(f"`input` is {_json_type(value)}; {_INPUT_WANTED}", param="input")
    if not value:
        raise EmptyInputError(
            "`inputs` cannot be empty", hint="`input` is an empty list", param="input"
        )
    # type() rather than isinstance, here and below: a bool is an int, but no token id.
    if type(value[0]) is int:
        _check_ids(value, "input")
        return [value], False
    if len(value) > max_client_batch_size:
        raise BatchTooLargeError(
            f"batch size {len(value)} > maximum allowed batch size {max_client_batch_size}",
            hint=f"send at most {max_client_batch_size} inputs in a request",
            param="input",
        )
    # One pass in C over the common case.
    if set(map(type, value)) != {str}:
        for index, item in enumerate(value):
            _check_item(item, index)
    return cast("list[TextOrIds]", value), True


def _check_item(item: Any, index: int) -> None:
    if isinstance(item, str):
        return
    if not isinstance(item, list):
        raise RequestError(
            f"`input[{index}]` is {_json_type(item)}; a text or a list of token ids is wanted",
            param="input",
        )
    _check_ids(item, f"input[{index}]")


def _check_ids(ids: list[Any], place: str) -> None:
    bad = next((index for index, token in enumerate(ids) if type(token) is not int), None)
    if bad is not None:
        is_nested = isinstance(ids[bad], str | list)
        raise RequestError(
            f"`{place}[{bad}]` is {_json_type(ids[bad])}; a list of token ids holds integers only",
            hint="texts and lists of token ids go side by side in one list" if is_nested else None,
            param="input",
        )


def _optional(fields: dict[str, Any], name: str, wanted: type, words: str) -> Any:
    """Return the field if it is there and not null; raises if it is of another type."""
    value = fields.get(name)
    if value is None or type(value) is wanted:
        return value
    raise RequestError(
        f"`{name}` is {_json_type(value)}; {words} or null is wanted",
        hint="leave it out for the model's own size" if name == "dimensions" else None,
        param=name,
    )


def _parse_encoding_format(value: Any) -> EncodingFormat:
    if value is None:
        return "float"
    if isinstance(value, str) and value in {"float", "base64"}:
        return cast("EncodingFormat", value)
    found = f"`{value[:40]}`" if isinstance(value, str) else _json_type(value)
    raise RequestError(
        f"`encoding_format` is {found}; `float` or `base64` is wanted", param="encoding_format"
    )


def _hint_for_missing_input(fields: dict[str, Any]) -> str:
    if "inputs" in fields:
        return "`inputs` was given; OpenAI's API, which this route speaks, calls it `input`"
    return 'name the texts to embed, such as {"input": ["one text", "another"]}'


def _explain_json_error(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        # The parser does not say where the text stops being UTF-8.
        body.decode("utf-8")
    except UnicodeDecodeError as unicode_error:
        return f"invalid UTF-8 at byte {unicode_error.start}"
    return f"{error.msg} at line {error.lineno} column {error.colno}"


def _json_type(value: Any) -> str:
    """Name a parsed value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {int: "an integer", float: "a floating-point number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
