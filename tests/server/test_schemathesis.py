"""The document holds under generated requests: the boundaries of every field, and random bodies.

schemathesis makes up requests that fit the document's schemas and requests that do not, sends them
to a real server, and compares what comes back with the document.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import schemathesis
from schemathesis.core.failures import FailureGroup
from schemathesis.filters import HasAPIOperation
from schemathesis.openapi.checks import RejectedPositiveData
from tests.server.fakes import FakeEngine, live_server, make_manifest

from beicli.model.spec import Task
from beicli.server.openapi.document import create_document
from beicli.server.openapi.operation import Served
from beicli.server.options import ServerOptions

# Of each kind and route, beside the boundaries.
NUM_RANDOM_REQUESTS = 10
CONFIG = {
    "generation": {"max-examples": NUM_RANDOM_REQUESTS, "deterministic": True, "database": "none"},
    "checks": {
        "negative_data_rejection": {"expected-statuses": [400, 413, 415, 422]},
        "positive_data_acceptance": {"expected-statuses": ["2xx", 404]},
    },
}
# What no schema can say: how many tokens a text has, and how many inputs lists hold together.
BEYOND_SCHEMAS = ("must have less than", "> maximum allowed batch size")

DEADLINES = ("request-timeout-ms", "x-timeout-ms", "request-deadline-ms")

Check = Callable[[schemathesis.Case, Task], None]


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    """Send a request to the server of a task, started when first needed, and look at the answer."""
    urls: dict[Task, str] = {}
    with ExitStack() as stack:

        def send(case: schemathesis.Case, task: Task) -> None:
            if task not in urls:
                urls[task] = stack.enter_context(live_server(FakeEngine(task))).url
            case.body = with_plain_integers(case.body)
            without_deadlines(case)
            response = case.call(base_url=urls[task])
            try:
                case.validate_response(response)
            except FailureGroup as failures:
                is_refusal = all(
                    isinstance(failure, RejectedPositiveData) for failure in failures.exceptions
                )
                if not is_refusal or not any(words in response.text for words in BEYOND_SCHEMAS):
                    raise

        yield send


def without_deadlines(case: schemathesis.Case) -> None:
    """Leave deadlines out, which most requests would miss, but not what is none."""
    for name in DEADLINES:
        if case.headers and case.headers.get(name, "").replace(".", "", 1).isdigit():
            del case.headers[name]


def with_plain_integers(value: object) -> object:
    """Write 64.0 as 64: JSON Schema holds both for integers, the routes only the latter."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [with_plain_integers(item) for item in value]
    if isinstance(value, dict):
        return {key: with_plain_integers(item) for key, item in value.items()}
    return value


def routes_of(task: Task) -> schemathesis.BaseSchema:
    """Load the document of a task's server: the routes whose answers depend on the model."""
    document = create_document(Served.of(make_manifest(task), ServerOptions()))
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(CONFIG))

    def is_tested(context: HasAPIOperation) -> bool:
        operation = context.operation
        raw = operation.definition.raw
        # What every model answers alike is tested with one of them.
        is_common = operation.method == "get" or operation.path in {"/tokenize", "/decode"}
        return raw["x-bei-available"] and (task is Task.EMBEDDING or not is_common)

    return schema.include(is_tested)


embedding = routes_of(Task.EMBEDDING)
sparse_embedding = routes_of(Task.SPARSE_EMBEDDING)
classification = routes_of(Task.CLASSIFICATION)
reranking = routes_of(Task.RERANKING)
token_classification = routes_of(Task.TOKEN_CLASSIFICATION)


@embedding.parametrize()
def test_an_embedding_server_keeps_to_its_document(case: schemathesis.Case, check: Check) -> None:
    check(case, Task.EMBEDDING)


@sparse_embedding.parametrize()
def test_a_sparse_embedding_server_keeps_to_its_document(
    case: schemathesis.Case, check: Check
) -> None:
    check(case, Task.SPARSE_EMBEDDING)


@classification.parametrize()
def test_a_classifier_keeps_to_its_document(case: schemathesis.Case, check: Check) -> None:
    check(case, Task.CLASSIFICATION)


@reranking.parametrize()
def test_a_reranker_keeps_to_its_document(case: schemathesis.Case, check: Check) -> None:
    check(case, Task.RERANKING)


@token_classification.parametrize()
def test_a_token_classifier_keeps_to_its_document(case: schemathesis.Case, check: Check) -> None:
    check(case, Task.TOKEN_CLASSIFICATION)
