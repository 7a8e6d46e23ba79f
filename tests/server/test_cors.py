import asyncio

import httpx2
import pytest
from tests.server.fakes import ask, live_server

from beicli.cli.serve_options import check_origins
from beicli.errors import UsageError
from beicli.server.front import Front
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions

ORIGIN = "https://app.example"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-bei-return-input-tokens",
}
BODY = {"input": "w1"}
LOCKED = ServerOptions(port=0, api_keys=("key",), cors_origins=(ORIGIN, "http://localhost:3000"))


def access_headers(response: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-")}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/health", "/none"])
def test_no_page_is_let_in_unless_its_site_is_named(path: str) -> None:
    preflight = ask("OPTIONS", path, headers=PREFLIGHT)
    request = ask("POST", "/v1/embeddings", json=BODY, headers={"origin": ORIGIN})

    assert preflight.status_code == (404 if path == "/none" else 405)
    assert access_headers(preflight) == access_headers(request) == {}
    assert "origin" not in request.headers["vary"].lower()


def test_a_browser_gets_leave_without_a_key_and_the_request_wants_one() -> None:
    with live_server(options=LOCKED) as server:
        url = server.url + "/v1/embeddings"
        preflight = httpx2.options(url, headers=PREFLIGHT)
        without = httpx2.post(url, json=BODY, headers={"origin": ORIGIN})
        request = httpx2.post(
            url, json=BODY, headers={"origin": ORIGIN, "authorization": "Bearer key"}
        )

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    # A page reads a refusal only if it is let in as well.
    assert (without.status_code, request.status_code) == (401, 200)
    for answer in (without, request):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-expose-headers"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_a_page_may_read_that_the_server_still_loads_its_engine() -> None:
    async def run() -> tuple[httpx2.Response, httpx2.Response]:
        transport = httpx2.ASGITransport(Front(LOCKED, ServerMetrics()))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            preflight = await client.options("/v1/embeddings", headers=PREFLIGHT)
            return preflight, await client.post("/v1/embeddings", headers={"origin": ORIGIN})

    preflight, refused = asyncio.run(run())

    assert (preflight.status_code, refused.status_code) == (200, 503)
    for answer in (preflight, refused):
        assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("origin", ["https://other.example", "https://app.example:444", "null"])
def test_a_page_of_another_site_is_not_let_in(origin: str) -> None:
    preflight = ask(
        "OPTIONS", "/v1/embeddings", headers=PREFLIGHT | {"origin": origin}, options=LOCKED
    )
    request = ask(
        "POST",
        "/v1/embeddings",
        json=BODY,
        headers={"origin": origin, "authorization": "Bearer key"},
        options=LOCKED,
    )

    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in request.headers


def test_a_star_lets_every_page_in() -> None:
    answer = ask(
        "POST",
        "/v1/embeddings",
        json=BODY,
        headers={"origin": "https://any.example"},
        options=ServerOptions(cors_origins=("*",)),
    )

    assert answer.headers["access-control-allow-origin"] == "*"


def test_other_clients_notice_nothing() -> None:
    answer = ask("OPTIONS", "/v1/embeddings", options=ServerOptions(cors_origins=(ORIGIN,)))

    assert answer.status_code == 405
    assert access_headers(answer) == {}


@pytest.mark.parametrize(
    "origin", ["*", ORIGIN, "http://localhost:3000", "http://[::1]:80", "moz-extension://0f-a1"]
)
def test_origins_that_browsers_send_are_taken(origin: str) -> None:
    assert check_origins([origin, ORIGIN]) == (origin, ORIGIN)


def test_without_origins_there_are_none() -> None:
    assert check_origins(None) == ()


@pytest.mark.parametrize(
    "origin", ["", "app.example", "https://app.example/", "https://App.example", "https://*/x"]
)
def test_what_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="is not an origin"):
        check_origins([origin])
