"""`/docs`: safe to open, whatever the model is called, and true to the document."""

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser

import pytest
from tests.server.fakes import FakeEngine, ask, make_manifest

from beicli.model.spec import Task
from beicli.server.openapi.docs_page import render_page
from beicli.server.openapi.document import create_document, operations
from beicli.server.openapi.operation import Served
from beicli.server.options import ServerOptions

NASTY_NAME = "<img src=x onerror=alert(1)>'\"`{{ 7*7 }}`"


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.commands: list[str] = []
        self.text = ""
        self.styles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if self.tags[-1] == ("pre", {"class": "curl"}):
            self.commands.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if not self.tags:
            return
        if self.tags[-1][0] == "style":
            self.styles.append(data)
        if self.tags[-1] == ("pre", {"class": "curl"}):
            self.commands[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))


def page_of(task: Task = Task.EMBEDDING, options: ServerOptions | None = None) -> str:
    served = Served.of(make_manifest(task), options or ServerOptions())
    return render_page(create_document(served), base_url="http://127.0.0.1:7997")


def test_the_page_loads_and_runs_nothing() -> None:
    response = ask("GET", "/docs")

    policy = response.headers["content-security-policy"]
    page = Page(response.text)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object", "form"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "srcset", "style"} & set(attributes)
        target = attributes.get("href") or "#"
        assert target.startswith("#") or target == "openapi.json"


def test_the_policy_lets_the_style_of_the_page_through_and_no_other() -> None:
    response = ask("GET", "/docs")

    styles = Page(response.text).styles
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
        for style in styles
    ]
    assert len(hashes) == 1
    assert f"style-src {hashes[0]};" in response.headers["content-security-policy"]
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]


@pytest.mark.parametrize("task", Task)
def test_every_route_is_on_the_page(task: Task) -> None:
    text = Page(page_of(task)).text

    for operation in operations(Served.of(make_manifest(task), ServerOptions())):
        assert f"{operation.method.upper()} {operation.path}" in text
        assert operation.summary.replace("`", "") in text


def test_routes_of_other_models_are_marked() -> None:
    text = Page(page_of(Task.RERANKING)).text

    assert "`tiny`" not in text
    assert "tiny is a reranker and answers 424." in text
    assert text.count("(not this model)") == 8


def test_commands_ask_what_the_examples_say() -> None:
    commands = [shlex.split(command) for command in Page(page_of()).commands]

    posts = [command for command in commands if "--data" in command]
    bodies = [json.loads(command[command.index("--data") + 1]) for command in posts]
    served = Served.of(make_manifest(), ServerOptions())
    found = [example for op in operations(served) for example in op.examples]
    assert bodies == [example.body for example in found if example.body is not None]
    assert len(commands) == len(found)
    assert all(command[2].startswith("http://127.0.0.1:7997/") for command in commands)


def test_a_models_name_never_becomes_markup() -> None:
    options = ServerOptions(served_model_name=NASTY_NAME)

    raw = page_of(options=options)

    page = Page(raw)
    assert "<img" not in raw
    assert "img" not in {tag for tag, _ in page.tags}
    assert f"{NASTY_NAME}, served by bei" in page.text


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("bei.example:8080", "http://bei.example:8080/"),
        ("[::1]:7997", "http://[::1]:7997/"),
        ("$(reboot)", "http://127.0.0.1:7997/"),
        ("a'; reboot; '", "http://127.0.0.1:7997/"),
        ("a\\<b", "http://127.0.0.1:7997/"),
    ],
)
def test_commands_name_the_address_that_was_asked(host: str, shown: str) -> None:
    page = Page(ask("GET", "/docs", headers={"host": host}).text)

    assert all(shlex.split(command)[2].startswith(shown) for command in page.commands)


def test_the_page_is_the_same_for_a_platform() -> None:
    engine = FakeEngine(Task.TOKEN_CLASSIFICATION)

    response = ask("GET", "/production/sync/docs", engine=engine)

    assert response.status_code == 200
    assert re.search(r"<title>tiny, served by bei</title>", response.text)
