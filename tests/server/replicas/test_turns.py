from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.server.replicas.turns import OpenConnections, Turns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counts"


@pytest.fixture
def counts(path: Path) -> Iterator[OpenConnections]:
    with closing(OpenConnections.create(path, num_replicas=3)) as counts:
        yield counts


def test_nobody_waits_for_replicas_that_accept_nothing(counts: OpenConnections) -> None:
    counts.write(0, 100)

    assert not counts.has_more_than_others(0)


def test_whoever_holds_more_than_another_gives_way(counts: OpenConnections) -> None:
    for number, count in enumerate([2, 1, 2]):
        counts.write(number, count)

    assert [counts.has_more_than_others(number) for number in range(3)] == [True, False, True]


def test_what_one_process_writes_another_reads(counts: OpenConnections, path: Path) -> None:
    counts.write(0, 1)
    with closing(OpenConnections.open(path, num_replicas=3)) as elsewhere:
        elsewhere.write(1, 0)
        assert counts.has_more_than_others(0)

        elsewhere.leave(1)

    assert not counts.has_more_than_others(0)


def test_a_connection_that_closes_late_does_not_bring_a_replica_back(
    counts: OpenConnections,
) -> None:
    ending, other = Turns(counts, 0), Turns(counts, 1)
    for turns in (ending, other):
        turns.begin()
        turns.opened()
    ending.end()

    ending.closed()

    assert not other.is_anothers


@given(askers=st.lists(st.integers(0, 2), max_size=60))
def test_replicas_that_give_way_never_differ_by_more_than_one(
    askers: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "counts"
    with closing(OpenConnections.create(path, num_replicas=3)) as counts:
        replicas = [Turns(counts, number) for number in range(3)]
        held = [0, 0, 0]
        for turns in replicas:
            turns.begin()
        for asker in askers:
            if not replicas[asker].is_anothers:
                replicas[asker].opened()
                held[asker] += 1

            assert max(held) - min(held) <= 1
