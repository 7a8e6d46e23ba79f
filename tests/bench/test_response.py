import base64
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.response import (
    Answer,
    InvalidResponseError,
    QuickCheck,
    error_message,
    printable_line,
    read_embeddings,
    read_model_name,
)
from beicli.bench.settings import EncodingFormat

BASE64 = EncodingFormat.BASE64
FLOAT = EncodingFormat.FLOAT
MARK = b'"embedding"'


def body(
    vectors: list[Any], *, indices: list[int] | None = None, usage: Any = None, spaced: bool = False
) -> bytes:
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": vector, "index": index}
            for index, vector in zip(indices or range(len(vectors)), vectors, strict=True)
        ],
        "model": "m",
        "usage": usage,
    }
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2 if spaced else None)


def read(
    content: bytes,
    *,
    num_texts: int = 2,
    encoding_format: EncodingFormat = FLOAT,
    dimensions: int | None = None,
) -> Answer:
    return read_embeddings(
        content, num_texts=num_texts, encoding_format=encoding_format, dimensions=dimensions
    )


def base64_vector(length: int) -> str:
    return base64.b64encode(struct.pack(f"<{length}f", *range(length))).decode()


def test_a_complete_answer_tells_tokens_and_model() -> None:
    content = body([[0.5, 1], [0.25, 0.0]], usage={"prompt_tokens": 9, "total_tokens": 9})

    assert read(content) == Answer(num_tokens=9, model="m")


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": True}, 3])
def test_an_answer_without_a_token_count_is_complete_too(usage: Any) -> None:
    assert read(body([[0.5], [0.5]], usage=usage)).num_tokens is None


def test_indices_may_come_in_any_order() -> None:
    assert read(body([[0.5], [0.5]], indices=[1, 0])).model == "m"


@given(st.integers(min_value=1, max_value=70))
def test_the_length_of_a_base64_vector_is_that_of_its_bytes(length: int) -> None:
    content = body([base64_vector(length)] * 2)

    assert read(content, encoding_format=BASE64, dimensions=length).model == "m"
    with pytest.raises(InvalidResponseError, match=f"vectors of length {length}, wanted"):
        read(content, encoding_format=BASE64, dimensions=length + 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "no list `data`"),
        (b'{"data": {}}', "no list `data`"),
        (b'{"data": [1, 2]}', "no list `data`"),
        (body([[0.5]]), "1 vectors for 2 texts"),
        (body([[0.5]] * 3), "3 vectors for 2 texts"),
        (body([[0.5]] * 2, indices=[1, 1]), "indices are not 0 to 1"),
        (body([[0.5]] * 2, indices=[1, 2]), "indices are not 0 to 1"),
        (body([[0.5], [0.5, 0.5]]), r"different lengths: \[1, 2\]"),
        (body([[], []]), "empty"),
        (body([[None], [0.5]]), "not float numbers"),
        (body([["0.5"], ["0.5"]]), "not float numbers"),
        (body([base64_vector(3)] * 2), "of type `str`, which is not float"),
    ],
)
def test_an_incomplete_answer_is_refused_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(InvalidResponseError, match=message):
        read(content)


@pytest.mark.parametrize(
    "vector",
    [[0.5], "", "AAA", "AAAAAAA=", base64.b64encode(b"12345").decode()],
)
def test_what_cannot_be_base64_of_float32_is_refused(vector: Any) -> None:
    with pytest.raises(InvalidResponseError, match="not base64"):
        read(body([vector, vector]), encoding_format=BASE64)


def test_a_base64_vector_with_an_infinity_is_refused() -> None:
    vector = base64.b64encode(struct.pack("<2f", 0.5, float("inf"))).decode()

    with pytest.raises(InvalidResponseError, match="not base64 numbers"):
        read(body([vector, vector]), encoding_format=BASE64)


@given(st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=5))
def test_by_length_the_quick_check_sees_a_missing_vector_of_any_size(
    length: int, num_texts: int
) -> None:
    vectors = [base64_vector(length)] * num_texts
    check = QuickCheck(body(vectors, usage={"prompt_tokens": 9}), mark=None)

    assert check.num_tokens(body(vectors, usage={"prompt_tokens": 10_000})) == 10_000
    with pytest.raises(InvalidResponseError, match="bytes in an answer that should have"):
        check.num_tokens(body(vectors[:-1], usage={"prompt_tokens": 9}))


@pytest.mark.parametrize("spaced", [False, True])
def test_the_quick_check_finds_the_token_count(*, spaced: bool) -> None:
    check = QuickCheck(body([[0.5], [0.5]], spaced=spaced), mark=MARK)

    content = body([[0.25], [0.75]], usage={"prompt_tokens": 41, "total_tokens": 41}, spaced=spaced)
    assert check.num_tokens(content) == 41


def test_the_quick_check_accepts_an_answer_without_usage() -> None:
    content = body([[0.5], [0.5]])

    assert QuickCheck(content, mark=MARK).num_tokens(content) is None


@given(st.integers(min_value=0, max_value=6), st.integers(min_value=1, max_value=6))
def test_the_quick_check_agrees_with_the_full_one_on_the_number_of_items(
    num_items: int, num_texts: int
) -> None:
    check = QuickCheck(body([[0.5]] * num_texts), mark=MARK)

    if num_items == num_texts:
        assert check.num_tokens(body([[0.5]] * num_items)) is None
    else:
        with pytest.raises(InvalidResponseError):
            check.num_tokens(body([[0.5]] * num_items))


def test_the_quick_check_sees_a_body_cut_short() -> None:
    content = body([[0.5], [0.5]])

    with pytest.raises(InvalidResponseError, match="ends in the middle"):
        QuickCheck(content, mark=MARK).num_tokens(content[:-2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": "Model is overloaded", "error_type": "Overloaded"}', "Model is overloaded"),
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"message": "too long", "code": 422, "type": "Validation"}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"loc": ["input"]}]}', '{"detail": [{"loc": ["input"]}]}'),
        (b"<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"),
        (b"", "empty body"),
        (b"\xff\n ", "\ufffd"),
    ],
)
def test_the_message_of_an_error_body_is_found(content: bytes, message: str) -> None:
    assert error_message(content) == message


def test_a_message_is_one_line_of_bounded_length_without_terminal_codes() -> None:
    assert printable_line("two\nlines \x1b[31mred\x1b[0m") == "two lines [31mred [0m"
    assert len(printable_line("x" * 10_000)) == 201


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ('{"model_id": "BAAI/bge-m3"}', "BAAI/bge-m3"),
        ('{"model": "m"}', None),
        ('{"model_id": 7}', None),
        ("[]", None),
        ("<html>", None),
        (None, None),
    ],
)
def test_a_model_that_answers_leave_unnamed_is_named_by_the_server(
    info: str | None, name: str | None
) -> None:
    assert read_model_name(info) == name
