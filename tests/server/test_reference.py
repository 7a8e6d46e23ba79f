"""`docs/reference/http-api.md` names what the code has."""

import re
from pathlib import Path

import pytest
from tests.server.fakes import ask

from beicli.errors import BeiError
from beicli.server.errors import WORDS, InternalError
from beicli.server.metrics import ServerMetrics

PAGE = (Path(__file__).parents[2] / "docs/reference/http-api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("error_class", WORDS, ids=lambda error_class: error_class.__name__)
def test_the_page_has_every_error(error_class: type[BeiError]) -> None:
    words = WORDS[error_class]
    # A plain BeiError reaches no client; a bug does, with the same words.
    shown = InternalError if error_class is BeiError else error_class

    row = f"| {shown.http_status} | `{words.code}` | `{words.openai_type}` | `{shown.error_type}` |"

    assert row in PAGE
    assert f"`{words.failure}`" in PAGE


def test_the_page_has_every_metric() -> None:
    names = re.findall(r"# TYPE (\S+)", ServerMetrics().render().decode())

    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_the_page_has_every_route() -> None:
    hint = ask("GET", "/no-such-route").json()["hint"].removeprefix("this server has ")
    routes = hint.replace("{model_id}", "{id}").split(", ")

    assert [route for route in routes if f"`{route}`" not in PAGE] == []


def test_the_page_has_every_header() -> None:
    response = ask("POST", "/v1/embeddings", json={"input": "w1 " * 40})
    names = [name for name in response.headers if name.startswith("x-")]

    assert len(names) == 9
    assert [name for name in names if f"`{name}`" not in PAGE] == []
