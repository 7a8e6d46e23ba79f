import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs.generate import DOCS, LIMITS, MODEL, PAGES, stale_pages, write_pages

from beicli.config.keys import all_keys
from beicli.server.openapi.document import operations
from beicli.server.openapi.operation import Served
from beicli.server.options import ServerOptions


def test_generated_pages_are_what_the_code_says() -> None:
    assert stale_pages() == []


def test_config_page_holds_every_key() -> None:
    page = (DOCS / "reference/config.md").read_text(encoding="utf-8")

    missing = [path for path, _ in all_keys() if f"| `{path}` |" not in page]

    assert missing == []


def test_routes_page_holds_every_route_and_the_fields_of_one() -> None:
    page = (DOCS / "reference/http-routes.md").read_text(encoding="utf-8")

    served = Served("any", MODEL, LIMITS, ServerOptions())
    missing = [
        operation.path
        for operation in operations(served)
        if f"### `{operation.method.upper()} {operation.path}`\n" not in page
    ]
    assert missing == []
    assert "| `input` | text, list of token ids, or a list of those | *required* |" in page
    assert "| `inputs.source_sentence` | text | *required* |" in page
    assert "| `raw_scores` | true or false | `false` |" in page


def test_page_that_was_edited_or_is_missing_is_found(tmp_path: Path) -> None:
    write_pages(tmp_path)
    assert stale_pages(tmp_path) == []

    page = tmp_path / next(iter(PAGES))
    page.write_text(page.read_text(encoding="utf-8") + "edited by hand\n", encoding="utf-8")
    assert stale_pages(tmp_path) == [page]

    page.unlink()
    assert stale_pages(tmp_path) == [page]


def test_check_option_exits_0_when_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--check"], []])
def test_check_option_exits_1_and_writes_nothing_when_a_page_is_stale(
    tmp_path: Path, arguments: list[str]
) -> None:
    directory = tmp_path / "docs"
    directory.mkdir()
    for script in DOCS.glob("*.py"):
        shutil.copyfile(script, directory / script.name)

    done = subprocess.run(
        [sys.executable, str(directory / "generate.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(DOCS.parent)},
    )

    assert done.returncode == len(arguments)
    assert bool(stale_pages(directory)) == bool(arguments)
    assert ("stale: " in done.stderr) == bool(arguments)
