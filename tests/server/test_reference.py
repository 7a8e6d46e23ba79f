"""`docs/reference/http-api.md` names what the code has."""

import re
from pathlib import Path

import pytest
from tests.server.fakes import FakeEngine, ask

from beicli.errors import BeiError
from beicli.model.spec import Task
from beicli.pipeline.entities import AggregationStrategy
from beicli.pipeline.prompts import INPUT_TYPES
from beicli.server.cohere_embed import EmbeddingType
from beicli.server.errors import WORDS, InternalError
from beicli.server.metrics import BUILD_LABELS, ServerMetrics
from beicli.server.openapi.responses import INFERENCE_HEADERS
from beicli.server.options import ServerOptions
from beicli.server.records import DROPPED, UNKNOWN_ROUTE
from beicli.server.vectors import EncodingFormat

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


@pytest.mark.parametrize("task", Task)
def test_the_page_has_every_route(task: Task) -> None:
    hint = ask("GET", "/no-such-route", engine=FakeEngine(task)).json()["hint"]
    routes = hint.removeprefix("this server has ").replace("{model_id}", "{id}").split(", ")

    assert len(routes) == len(set(routes)) > 20
    assert [route for route in routes if f"`{route}`" not in PAGE] == []


def test_the_page_has_every_label_of_a_metric() -> None:
    for label in BUILD_LABELS:
        assert f"`{label}`" in PAGE
    for value in (UNKNOWN_ROUTE, DROPPED):
        assert f"`{value}`" in PAGE


def test_the_page_has_every_header() -> None:
    assert [name for name in INFERENCE_HEADERS if f"`{name}`" not in PAGE] == []


def test_the_page_has_the_limits() -> None:
    options = ServerOptions()

    assert f"| {options.max_client_batch_size} | `--max-client-batch-size` |" in PAGE
    assert f"| {options.max_concurrent_requests:,} | `--max-concurrent-requests` |" in PAGE
    assert f"| {options.max_body_bytes // 2**20} MiB | `--max-body-mib` |" in PAGE


def test_the_page_has_every_purpose_of_an_input() -> None:
    assert [name for name in INPUT_TYPES if f"`{name}`" not in PAGE] == []


def test_the_page_has_every_way_of_writing_numbers() -> None:
    for name in (*EncodingFormat, *EmbeddingType, *AggregationStrategy):
        assert f"`{name}`" in PAGE or f'"{name}"' in PAGE


def test_links_of_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\(#([^)]+)\)", PAGE)) <= anchors
