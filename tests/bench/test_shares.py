import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.bench.loads import Load
from beicli.bench.settings import BenchSettings, Target, WorkloadKind
from beicli.bench.shares import shares_of_load
from beicli.bench.texts import Texts
from beicli.datasets import bundled_dataset

URL = "http://127.0.0.1:7997"
DATASET = bundled_dataset()
TEXTS = Texts.of(DATASET)


@given(st.integers(min_value=1, max_value=20), st.integers(min_value=1, max_value=5))
def test_every_client_belongs_to_one_process_and_the_parts_are_even(
    concurrency: int, num_processes: int
) -> None:
    settings = BenchSettings(target=Target(URL))

    shares = shares_of_load(Load(concurrency=concurrency), settings, TEXTS, num_processes)

    sizes = [len(share.bodies[0]) for share in shares]
    bodies = [body for share in shares for client in share.bodies[0] for body in client]
    assert sum(sizes) == concurrency
    assert max(sizes) - min(sizes) <= 1
    assert len(set(bodies)) == len(bodies) == max(len(DATASET.texts), concurrency)


@given(st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=9))
def test_a_rate_is_divided_and_no_process_is_without_a_connection(
    num_processes: int, max_connections: int
) -> None:
    settings = BenchSettings(target=Target(URL), max_connections=max_connections)

    shares = shares_of_load(Load(rate_per_second=100), settings, TEXTS, num_processes)

    assert sum(share.rate_per_second or 0 for share in shares) == pytest.approx(100)
    assert sum(share.max_connections for share in shares) == max(max_connections, num_processes)
    assert len({share.seed for share in shares}) == num_processes
    assert all(len(share.bodies[0]) == 1 for share in shares)


def test_each_server_gets_the_same_texts_under_its_own_models_name() -> None:
    settings = BenchSettings(target=Target(URL, "ours"), against=Target(URL, "theirs"))

    (share,) = shares_of_load(Load(concurrency=2), settings, TEXTS, 1)

    ours, theirs = (orjson.loads(bodies[1][3]) for bodies in share.bodies)
    assert (ours.pop("model"), theirs.pop("model")) == ("ours", "theirs")
    assert ours == theirs


def bodies_of(workload: WorkloadKind) -> list[dict[str, object]]:
    settings = BenchSettings(target=Target(URL), workload=workload, batch_size=2)
    (share,) = shares_of_load(Load(concurrency=1), settings, TEXTS, 1)
    return [orjson.loads(body) for body in share.bodies[0][0]]


def test_a_reranker_ranks_for_short_texts_of_the_dataset() -> None:
    bodies = bodies_of(WorkloadKind.RERANK)

    assert set(bodies[0]) == {"query", "texts", "truncate"}
    queries = [str(body["query"]) for body in bodies]
    median = sorted(map(len, DATASET.texts))[len(DATASET.texts) // 2]
    assert len(set(queries)) > 10
    assert max(map(len, queries)) < median


@pytest.mark.parametrize("workload", [WorkloadKind.PREDICT, WorkloadKind.PREDICT_TOKENS])
def test_classifiers_get_each_text_in_a_list_of_its_own(workload: WorkloadKind) -> None:
    inputs = bodies_of(workload)[0]["inputs"]

    # A flat list of two would be a pair.
    assert isinstance(inputs, list)
    assert [len(each) for each in inputs] == [1, 1]
