from pathlib import Path

import pytest

from beicli.datasets import bundled_dataset, read_dataset
from beicli.errors import UsageError


def test_the_bundled_texts_are_many_distinct_and_of_varied_length() -> None:
    texts = bundled_dataset().texts

    num_words = sorted(len(text.split()) for text in texts)
    assert len(texts) == len(set(texts)) >= 100
    assert num_words[0] == 3
    assert 200 <= num_words[-1] <= 250
    assert num_words[len(num_words) // 2] < 40


def test_a_text_file_gives_one_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("\ufeffGrüße\n\n  two words \nGrüße\n", encoding="utf-8")

    assert read_dataset(path).texts == ("Grüße", "two words")


def test_a_jsonl_file_gives_strings_and_text_fields(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('"a plain\\nstring"\n\n{"id": 7, "text": "in an object"}\n', encoding="utf-8")

    assert read_dataset(path).texts == ("a plain\nstring", "in an object")


def test_a_line_separator_inside_a_text_does_not_end_it(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('"one\u2028text"\n', encoding="utf-8")

    assert read_dataset(path).texts == ("one\u2028text",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "line 2 is not JSON"),
        (b"17", "line 2 holds no text"),
        (b'{"body": "x"}', "line 2 holds no text"),
        (b'{"text": ["x"]}', "line 2 holds no text"),
        (b'"  "', "line 2 holds an empty text"),
        (b'"\xff"', "line 2 is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_with_its_file(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(b'"fine"\n' + line + b"\n")

    with pytest.raises(UsageError) as caught:
        read_dataset(path)

    assert f"`{path}` {message}" in caught.value.message


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_texts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)

    with pytest.raises(UsageError, match="holds no text"):
        read_dataset(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_dataset(tmp_path / "gone.txt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read dataset"):
        read_dataset(tmp_path)


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown suffix `\.csv`"):
        read_dataset(tmp_path / "queries.csv")
