import resource
from collections.abc import Iterator

import pytest

from beicli.bench.open_files import allow_connections
from beicli.errors import UsageError


@pytest.fixture(autouse=True)
def _restored_limits() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_limit_is_raised_as_far_as_needed() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    allow_connections(200)

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 300 <= soft < 1000


def test_a_limit_that_is_high_enough_stays() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    allow_connections(1)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


def test_more_connections_than_the_system_allows_are_refused_with_the_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1024, 4096))

    with pytest.raises(UsageError) as caught:
        allow_connections(5000)

    assert "5,000 connections in one process need about 5,100 open files" in str(caught.value)
    assert "--client-processes" in (caught.value.hint or "")
