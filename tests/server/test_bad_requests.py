"""Every way to get an embeddings request wrong, with the exact answer."""

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from tests.server.fakes import ask

from beicli.server.options import ServerOptions

JSON = {"content-type": "application/json"}
NOT_JSON = "Failed to parse the request body as JSON: "
EMPTY = "Input validation error: `inputs` cannot be empty"
OBJECT_HINT = 'send a JSON object, such as {"input": "some text"}'
UTF8_HINT = "send one JSON object in UTF-8"
IDS_HINT = "texts and lists of token ids go side by side in one list"
VOCABULARY = "is not in this model's vocabulary of 3004 tokens"
VOCABULARY_HINT = "token ids must come from this model's own tokenizer; send the text instead"
FORMATS = "`float`, `base64`, `bytes` or `bytes_only`"
SIZE_HINT = "leave it out for the model's own size"


@dataclass(frozen=True)
class Case:
    """A request body and what must come back; fields of `error` not given are null or absent."""

    body: Any
    status: int
    code: str
    message: str
    hint: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=lambda: JSON)


def malformed(body: bytes, message: str, hint: str = UTF8_HINT) -> Case:
    return Case(body, 400, "invalid_json", NOT_JSON + message, hint)


def wrong_input(value: Any, message: str, hint: str | None = None) -> Case:
    return Case({"input": value}, 422, "invalid_value", message, hint, "input")


def wrong_field(name: str, value: Any, message: str, hint: str | None = None) -> Case:
    return Case({"input": "w1", name: value}, 422, "invalid_value", message, hint, name)


def wrong_type(headers: dict[str, str], hint: str) -> Case:
    message = "Expected request with `Content-Type: application/json`"
    return Case(b'{"input": "w1"}', 415, "unsupported_media_type", message, hint, headers=headers)


CASES = {
    # Not JSON.
    "nothing": malformed(b"", "the body is empty", OBJECT_HINT),
    "a word": malformed(b"hello", "unexpected character, expected a JSON value at line 1 column 1"),
    "cut off": malformed(b'{"input":\n"w1"', "unexpected end of data at line 2 column 5"),
    "two documents": malformed(
        b'{"input": "w1"} {}', "unexpected content after document at line 1 column 17"
    ),
    "half a surrogate pair": malformed(
        rb'{"input": "\ud800"}', "no low surrogate in string at line 1 column 12"
    ),
    "latin-1": malformed(b'{"input": "caf\xe9"}', "invalid UTF-8 at byte 14"),
    "utf-16": malformed('{"input": "w1"}'.encode("utf-16"), "invalid UTF-8 at byte 0"),
    "not a number": malformed(
        b'{"input": NaN}', "unexpected character, expected a JSON value at line 1 column 11"
    ),
    "nested too deeply": malformed(
        b'{"input":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "depth limit exceeded at line 1 column 1034",
    ),
    # JSON, but no object.
    "a list": Case(
        ["w1"],
        422,
        "invalid_value",
        "the request body is a list; an object is wanted",
        OBJECT_HINT,
    ),
    "null": Case(
        None, 422, "invalid_value", "the request body is null; an object is wanted", OBJECT_HINT
    ),
    # `input`.
    "no input": Case(
        {"model": "tiny"},
        422,
        "invalid_value",
        "`input` is missing",
        'name the texts to embed, such as {"input": ["one text", "another"]}',
        "input",
    ),
    "inputs": Case(
        {"inputs": ["w1"]},
        422,
        "invalid_value",
        "`input` is missing",
        "`inputs` was given; OpenAI's API, which this route speaks, calls it `input`",
        "input",
    ),
    "input is null": wrong_input(
        None, "`input` is null; a text, a list of token ids, or a list of those is wanted"
    ),
    "input is a number": wrong_input(
        1, "`input` is an integer; a text, a list of token ids, or a list of those is wanted"
    ),
    "input is true": wrong_input(
        True, "`input` is true; a text, a list of token ids, or a list of those is wanted"
    ),
    "input is an object": wrong_input(
        {"text": "w1"},
        "`input` is an object; a text, a list of token ids, or a list of those is wanted",
    ),
    "no inputs": Case(
        {"input": []},
        400,
        "empty_input",
        "`inputs` cannot be empty",
        "`input` is an empty list",
        "input",
    ),
    "empty text": Case(
        {"input": ""},
        400,
        "empty_input",
        EMPTY,
        "input 0 is an empty string: leave it out or send a text",
        "input",
    ),
    "empty text among others": Case(
        {"input": ["w1", ""]},
        400,
        "empty_input",
        EMPTY,
        "input 1 is an empty string: leave it out or send a text",
        "input",
    ),
    "empty token ids": Case(
        {"input": ["w1", []]},
        400,
        "empty_input",
        EMPTY,
        "input 1 is an empty list of token ids: leave it out",
        "input",
    ),
    "null among texts": wrong_input(
        ["w1", None], "`input[1]` is null; a text or a list of token ids is wanted"
    ),
    "false among texts": wrong_input(
        [False, "w1"], "`input[0]` is false; a text or a list of token ids is wanted"
    ),
    "an object among texts": wrong_input(
        ["w1", {"text": "w2"}], "`input[1]` is an object; a text or a list of token ids is wanted"
    ),
    "an id after texts": wrong_input(
        ["w1", 7], "`input[1]` is an integer; a text or a list of token ids is wanted"
    ),
    "a text among ids": wrong_input(
        [7, "w1"], "`input[1]` is a string; a list of token ids holds integers only", IDS_HINT
    ),
    "a fraction among ids": wrong_input(
        [[7, 2.5]],
        "`input[0][1]` is a floating-point number; a list of token ids holds integers only",
    ),
    "true among ids": wrong_input(
        [7, True], "`input[1]` is true; a list of token ids holds integers only"
    ),
    "batch in a batch": wrong_input(
        [["w1", "w2"]],
        "`input[0][0]` is a string; a list of token ids holds integers only",
        IDS_HINT,
    ),
    "foreign id": wrong_input(
        ["w1", [2, 4000, 3]],
        f"Input validation error: token id 4000 of input 1 {VOCABULARY}",
        VOCABULARY_HINT,
    ),
    "negative id": wrong_input(
        [-1], f"Input validation error: token id -1 of input 0 {VOCABULARY}", VOCABULARY_HINT
    ),
    "129 inputs": Case(
        {"input": ["w1"] * 129},
        413,
        "batch_too_large",
        "batch size 129 > maximum allowed batch size 128",
        "send at most 128 inputs in a request",
        "input",
    ),
    # `dimensions`.
    "no dimensions": wrong_field(
        "dimensions",
        0,
        "Input validation error: `dimensions` should be positive",
        "0 was given",
    ),
    "negative dimensions": wrong_field(
        "dimensions",
        -1,
        "Input validation error: `dimensions` should be positive",
        "-1 was given",
    ),
    "more dimensions than the model has": wrong_field(
        "dimensions",
        9,
        "Input validation error: `dimensions` should be smaller than the maximum "
        "embedding dimension.",
        "9 was given; this model's embeddings have 8 dimensions",
    ),
    "dimensions are true": wrong_field(
        "dimensions", True, "`dimensions` is true; an integer or null is wanted", SIZE_HINT
    ),
    "dimensions are a string": wrong_field(
        "dimensions", "4", "`dimensions` is a string; an integer or null is wanted", SIZE_HINT
    ),
    "dimensions are 4.0": wrong_field(
        "dimensions",
        4.0,
        "`dimensions` is a floating-point number; an integer or null is wanted",
        SIZE_HINT,
    ),
    # The rest.
    "unknown encoding": wrong_field(
        "encoding_format", "int8", f"`encoding_format` is `int8`; {FORMATS} is wanted"
    ),
    "encoding is a list": wrong_field(
        "encoding_format", ["float"], f"`encoding_format` is a list; {FORMATS} is wanted"
    ),
    "unknown dtype": wrong_field(
        "embed_dtype",
        "bfloat16",
        "`embed_dtype` is `bfloat16`; `float32` or `float16` is wanted",
    ),
    "big-endian": wrong_field(
        "endianness", "big", "`endianness` is `big`; `little` or `native` is wanted"
    ),
    "truncate is a string": wrong_field(
        "truncate", "END", "`truncate` is a string; true, false or null is wanted"
    ),
    "unknown direction": wrong_field(
        "truncation_direction",
        "middle",
        "`truncation_direction` is `middle`; `left` or `right` is wanted",
    ),
    "no such prompt": wrong_field(
        "prompt_name",
        "query",
        "Input validation error: `prompt_name` is set to `query` but no prompts were found in the "
        "Sentence Transformers configuration",
        "leave `prompt_name` out, and write what the model wants into the text",
    ),
    "unknown input type": wrong_field(
        "input_type",
        "image",
        "`input_type` is `image`; one of search_query, query, search_document, document, passage, "
        "classification, clustering is wanted",
    ),
    "two ways to ask for a prompt": Case(
        {"input": "w1", "prompt_name": "query", "input_type": "query"},
        422,
        "invalid_value",
        "`prompt_name` and `input_type` are both given; one of them is wanted",
        "`prompt_name` is a name of the model's own prompts, `input_type` picks one of them by "
        "purpose",
        "input_type",
    ),
    "model is a number": wrong_field(
        "model", 5, "`model` is an integer; a string or null is wanted"
    ),
    "no content type": wrong_type({}, "the request has no content type"),
    "text": wrong_type({"content-type": "text/plain"}, "`text/plain` was given"),
    "form": wrong_type(
        {"content-type": "application/x-www-form-urlencoded"},
        "`application/x-www-form-urlencoded` was given",
    ),
    "gzip": Case(
        b"...",
        415,
        "unsupported_media_type",
        "request bodies in `Content-Encoding: gzip` are not read",
        "send the JSON uncompressed",
        headers={**JSON, "content-encoding": "gzip"},
    ),
    "too long": Case(
        b" " * 30_001,
        413,
        "payload_too_large",
        "Failed to buffer the request body: length limit exceeded",
        "30001 bytes were announced; a body may have 30000 bytes: send fewer or shorter inputs",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_a_bad_request_is_refused_with_the_reason_and_the_next_step(path: str, case: Case) -> None:
    content = case.body if isinstance(case.body, bytes) else orjson.dumps(case.body)

    response = ask(
        "POST",
        path,
        options=ServerOptions(max_body_bytes=30_000),
        content=content,
        headers=case.headers,
    )

    error = {
        "message": case.message,
        "type": "invalid_request_error",
        "param": case.param,
        "code": case.code,
    } | ({} if case.hint is None else {"hint": case.hint})
    assert (response.status_code, response.json()) == (case.status, {"error": error})
    assert response.headers["content-type"] == "application/json"


def test_a_long_wrong_value_is_not_repeated_in_full() -> None:
    response = ask("POST", "/v1/embeddings", json={"input": "w1", "encoding_format": "x" * 10_000})

    assert len(response.text) < 300


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.api+json",
    ],
)
def test_json_by_any_of_its_names_is_read(content_type: str) -> None:
    response = ask(
        "POST",
        "/v1/embeddings",
        content=b'{"input": "w1"}',
        headers={"content-type": content_type},
    )

    assert response.status_code == 200
