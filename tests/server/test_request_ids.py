import re

import pytest
from tests.server.fakes import FakeEngine, ask, ask_all
from tests.server.test_authentication import LOCKED

from beicli.server.request_ids import new_request_id

OWN, CUSTOMERS = "x-request-id", "x-baseten-customer-request-id"
BODY = {"input": "w1"}


def embed(**headers: str) -> dict[str, str]:
    """Return the ids of an answer, as request headers with dashes for underscores ask for it."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    response = ask("POST", "/v1/embeddings", json=BODY, headers=sent)
    return {name: value for name, value in response.headers.items() if name in {OWN, CUSTOMERS}}


def test_an_answer_has_the_id_its_request_came_with() -> None:
    assert embed(x_request_id="a-1/b:2") == {OWN: "a-1/b:2"}


def test_a_platforms_id_comes_back_under_both_names() -> None:
    assert embed(x_baseten_customer_request_id="c3") == {OWN: "c3", CUSTOMERS: "c3"}


def test_of_two_ids_each_comes_back_under_its_own_name() -> None:
    found = embed(x_request_id="a1", x_baseten_customer_request_id="c3")

    assert found == {OWN: "a1", CUSTOMERS: "c3"}


@pytest.mark.parametrize("given", ["", "a b", "a\tb", "é", "x" * 129])
def test_what_cannot_be_an_id_is_replaced(given: str) -> None:
    headers = {OWN: given.encode("latin-1")}

    answer = ask("POST", "/v1/embeddings", json=BODY, headers=headers).headers[OWN]

    assert re.fullmatch("[0-9a-f]{16}", answer)


def test_the_longest_id_is_taken_as_it_is() -> None:
    assert embed(x_request_id="x" * 128) == {OWN: "x" * 128}


def test_ids_that_are_made_differ() -> None:
    assert len({new_request_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/embeddings", {"input": []}, 400),
        ("POST", "/v1/embeddings", {"input": "w2"}, 424),
        ("POST", "/sync/rerank", {"query": "w1", "texts": ["w2"]}, 424),
        ("GET", "/no-such-route", None, 404),
        ("DELETE", "/health", None, 405),
        ("GET", "/health", None, 200),
        ("GET", "/metrics", None, 200),
    ],
)
def test_answers_of_every_kind_have_one(method: str, path: str, body: object, status: int) -> None:
    request = {} if body is None else {"json": body}

    response = ask(method, path, engine=FakeEngine(poison_id=6), headers={OWN: "mine"}, **request)

    assert (response.status_code, response.headers[OWN]) == (status, "mine")


def test_a_request_without_a_key_is_answered_with_its_id() -> None:
    response = ask("POST", "/v1/embeddings", options=LOCKED, json=BODY, headers={OWN: "mine"})

    assert (response.status_code, response.headers[OWN]) == (401, "mine")


def test_two_requests_of_a_client_that_has_no_ids_get_two() -> None:
    first, second = ask_all([("GET", "/health", {})] * 2)

    assert first.headers[OWN] != second.headers[OWN]
