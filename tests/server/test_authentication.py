from pathlib import Path

import baseten_performance_client
import httpx2
import openai
import pytest
import requests
from tests.server.fakes import FakeEngine, ask, live_server

from beicli.cli.serve_options import collect_api_keys
from beicli.errors import UsageError
from beicli.server.authentication import PUBLIC_PATHS
from beicli.server.options import ServerOptions

LOCKED = ServerOptions(port=0, api_keys=("first-key", "schlüssel"))
BODY = {"input": "w1"}


def embed(*, authorization: str | None, path: str = "/v1/embeddings") -> httpx2.Response:
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    return ask("POST", path, options=LOCKED, json=BODY, headers=headers)


@pytest.mark.parametrize(
    "authorization", ["Bearer first-key", "Bearer schlüssel", "Api-Key first-key"]
)
def test_any_of_the_keys_opens(authorization: str) -> None:
    assert embed(authorization=authorization).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer other",
        "bearer first-key",
        "Bearer first-key ",
        "first-key",
    ],
)
def test_anything_else_is_401_with_an_empty_body(authorization: str | None) -> None:
    response = embed(authorization=authorization)

    assert (response.status_code, response.content) == (401, b"")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/sync/v1/embeddings", "/environments/production/predict"])
def test_a_platforms_addresses_are_locked_as_well(path: str) -> None:
    assert embed(authorization=None, path=path).status_code == 401
    assert embed(authorization="Bearer first-key", path=path).status_code == 200


@pytest.mark.parametrize("path", [*sorted(PUBLIC_PATHS), "/"])
def test_health_metrics_and_documentation_are_public(path: str) -> None:
    assert ask("GET", path, options=LOCKED).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/info"), ("GET", "/v1/models"), ("POST", "/"), ("GET", "/none")]
)
def test_all_else_is_not(method: str, path: str) -> None:
    assert ask(method, path, options=LOCKED).status_code == 401


def test_without_keys_everybody_may_ask() -> None:
    assert ask("POST", "/v1/embeddings", json=BODY).status_code == 200


def test_clients_tell_a_bad_key_from_other_failures() -> None:
    with live_server(FakeEngine(), LOCKED) as server:
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="bad", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.embeddings.create(model="any", input="w1")
        performance_client = baseten_performance_client.PerformanceClient(
            base_url=server.url, api_key="bad"
        )
        with pytest.raises(requests.exceptions.HTTPError) as caught:
            performance_client.embed(input=["w1"], model="any")
        assert caught.value.args[0] == 401
        good = baseten_performance_client.PerformanceClient(
            base_url=server.url, api_key="first-key"
        )
        assert len(good.embed(input=["w1"], model="any").data) == 1


def test_keys_come_from_the_options_and_from_a_file_each_once(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n  two \nzero\n", encoding="utf-8")

    assert collect_api_keys(["zero", "other"], file) == ("zero", "other", "one", "two")
    assert collect_api_keys(None, None) == ()


@pytest.mark.parametrize("content", [None, "", "\n \n"])
def test_a_file_without_keys_is_refused_rather_than_letting_everybody_in(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content, encoding="utf-8")

    with pytest.raises(UsageError):
        collect_api_keys(None, file)


@pytest.mark.parametrize("given", [[""], ["sound", " "]])
def test_an_empty_key_is_refused(given: list[str]) -> None:
    with pytest.raises(UsageError, match="empty"):
        collect_api_keys(given, None)


def test_a_variable_of_blanks_is_refused_rather_than_letting_everybody_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BEI_API_KEY", " ")

    with pytest.raises(UsageError, match="empty"):
        # As typer gives it.
        collect_api_keys(None, None)
