"""`/vertex`, and the other addresses whose route follows from the model."""

import numpy as np
import ormsgpack
import pytest
from tests.server.fakes import FakeEngine, ask, ask_all, vector, word_ids

from beicli.model.spec import Task
from beicli.server.options import ServerOptions

BODIES: dict[Task, tuple[str, dict[str, object]]] = {
    Task.EMBEDDING: ("/embed", {"inputs": ["w1", "w2 w3"]}),
    Task.SPARSE_EMBEDDING: ("/embed_sparse", {"inputs": "w1 w1 w2"}),
    Task.CLASSIFICATION: ("/predict", {"inputs": [["w1"], ["w2", "w3"]]}),
    Task.RERANKING: ("/rerank", {"query": "w1", "texts": ["w2", "w3"]}),
    Task.TOKEN_CLASSIFICATION: ("/predict_tokens", {"inputs": "w1 w2"}),
}


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("address", ["/", "/invocations"])
def test_an_address_without_a_name_leads_to_the_route_of_the_model(
    task: Task, address: str
) -> None:
    route, body = BODIES[task]

    there, here = ask_all(
        [("POST", route, {"json": body}), ("POST", address, {"json": body})],
        engine=FakeEngine(task),
    )

    assert there.status_code == 200
    assert here.json() == there.json()


@pytest.mark.parametrize("task", Task)
def test_predictions_are_the_answers_to_the_instances_in_their_order(task: Task) -> None:
    route, body = BODIES[task]
    other = {**body, "truncate": False}

    single, both = ask_all(
        [
            ("POST", route, {"json": body}),
            ("POST", "/vertex", {"json": {"instances": [body, other]}}),
        ],
        engine=FakeEngine(task),
    )

    assert both.status_code == 200
    assert both.json() == {"predictions": [single.json()] * 2}
    tokens = int(single.headers["x-compute-tokens"])
    assert both.headers["x-compute-tokens"] == str(2 * tokens)
    characters = int(single.headers["x-compute-characters"])
    assert both.headers["x-compute-characters"] == str(2 * characters)


def test_instances_are_told_apart() -> None:
    body = {"instances": [{"inputs": "w1"}, {"inputs": ["w2", "w3"]}]}

    predictions = ask("POST", "/vertex", json=body).json()["predictions"]

    assert [len(rows) for rows in predictions] == [1, 2]
    for row, number in zip([*predictions[0], *predictions[1]], (1, 2, 3), strict=True):
        np.testing.assert_allclose(row, vector(word_ids(number)), atol=1e-6)


def test_predictions_can_be_packed() -> None:
    body = {"instances": [{"inputs": "w1"}, {"inputs": "w2"}]}

    plain, packed = ask_all(
        [
            ("POST", "/vertex", {"json": body}),
            ("POST", "/vertex", {"json": body, "headers": {"accept": "application/msgpack"}}),
        ]
    )

    assert packed.headers["content-type"] == "application/msgpack"
    found = ormsgpack.unpackb(packed.content)
    np.testing.assert_allclose(found["predictions"], plain.json()["predictions"], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "`instances` is missing"),
        ({"instances": {}}, 422, "`instances` is an object; a list of objects is wanted"),
        ({"instances": []}, 400, "`instances` cannot be empty"),
        ({"instances": [1]}, 422, "`instances[0]` is an integer; an object is wanted"),
        ({"instances": [{"inputs": "w1"}, {}]}, 422, "instance 1: `inputs` is missing"),
        (
            {"instances": [{"inputs": ["w1", "w2"]}, {"inputs": ["w1", "w2"]}]},
            413,
            "batch size 4 > maximum allowed batch size 3",
        ),
        (
            {"instances": [{"inputs": "w1"}] * 4},
            413,
            "batch size 4 > maximum allowed batch size 3",
        ),
        (
            {"instances": [{"inputs": "w1", "encoding_format": "bytes"}]},
            422,
            "a prediction cannot be `application/octet-stream`",
        ),
        ({"instances": [{"inputs": "w1", "dimensions": 9}]}, 422, "Input validation error: "),
    ],
)
def test_a_bad_instance_fails_the_request(body: object, status: int, message: str) -> None:
    response = ask("POST", "/vertex", json=body, options=ServerOptions(max_client_batch_size=3))

    assert response.status_code == status
    assert response.json()["error"].startswith(message)


def test_one_failing_instance_leaves_the_server_as_it_was() -> None:
    engine = FakeEngine(poison_id=6)
    good, bad = {"inputs": "w1"}, {"inputs": "w2"}

    failed, worked = ask_all(
        [
            ("POST", "/vertex", {"json": {"instances": [good, bad, good]}}),
            ("POST", "/vertex", {"json": {"instances": [good]}}),
        ],
        engine=engine,
    )

    assert failed.status_code == 424
    assert worked.status_code == 200
