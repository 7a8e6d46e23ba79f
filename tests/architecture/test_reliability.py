"""The page of promises names what holds each of them, and all of that exists."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "explanation" / "reliability.md"
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
_COMMAND = re.compile(r"`python (benchmarks/\w+\.py)`")


def promises(page: str) -> list[str]:
    """Return the rows of all tables, without their heads."""
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| promise |")]


def names_in(path: Path) -> set[str]:
    """Return what a module defines or names at its top."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def missing(page: str) -> list[str]:
    """Return the tests and benchmarks that are named and not there."""
    tests = [
        f"{file}::{name}"
        for file, name in _TEST.findall(page)
        if not (path := REPOSITORY / "tests" / file).is_file() or name not in names_in(path)
    ]
    scripts = [name for name in _COMMAND.findall(page) if not (REPOSITORY / name).is_file()]
    return tests + scripts


def test_every_promise_names_what_holds_it() -> None:
    rows = promises(PAGE.read_text(encoding="utf-8"))

    assert len(rows) > 20
    assert [row for row in rows if not _TEST.search(row) and not _COMMAND.search(row)] == []


def test_whatever_holds_a_promise_exists() -> None:
    assert missing(PAGE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "name",
    [
        "`architecture/test_reliability.py::test_of_nothing`",
        "`architecture/nowhere.py::test_whatever_holds_a_promise_exists`",
        "`python benchmarks/nothing.py`",
    ],
)
def test_a_name_that_nothing_has_is_found(name: str) -> None:
    assert missing(f"| a promise | {name} | |") != []
