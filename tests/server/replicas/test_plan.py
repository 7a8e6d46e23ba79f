from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.engine.options import EngineOptions
from beicli.errors import UsageError
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.scheduler.admission import AdmissionLimits
from beicli.server.options import KeyLimits, ServerOptions
from beicli.server.replicas.plan import (
    HEALTHY_AFTER_S,
    LONGEST_PAUSE_S,
    MAX_FAILURES,
    Backoff,
    auto_replicas,
    share,
)


@pytest.mark.parametrize(("num_cpus", "expected"), [(1, 1), (2, 1), (8, 1), (16, 2), (64, 8)])
def test_auto_starts_one_replica_for_so_many_cpus(num_cpus: int, expected: int) -> None:
    assert auto_replicas(num_cpus) == expected


def test_cpus_that_divide_evenly_are_dealt_out() -> None:
    shares = share(ServerOptions(), num_replicas=2, num_cpus=4, cpus=[0, 1, 4, 5])

    assert [each.cpus for each in shares] == [(0, 1), (4, 5)]
    assert [each.options.engine.num_threads for each in shares] == [2, 2]


@pytest.mark.parametrize(("num_cpus", "cpus"), [(3, [0, 1, 2]), (2, [0, 1, 2, 3])])
def test_cpus_that_do_not_are_left_to_the_kernel(num_cpus: int, cpus: list[int]) -> None:
    shares = share(ServerOptions(), num_replicas=2, num_cpus=num_cpus, cpus=cpus)

    assert [each.cpus for each in shares] == [(), ()]
    assert {each.options.engine.num_threads for each in shares} == {1}


def test_what_is_said_of_threads_is_said_of_each_replica() -> None:
    options = ServerOptions(engine=EngineOptions(num_threads=3, num_slots=2))

    shares = share(options, num_replicas=2, num_cpus=8, cpus=range(8))

    assert [each.options.engine for each in shares] == [
        replace(options.engine, replica_number=number) for number in range(2)
    ]


@given(st.integers(1, 8), st.integers(8, 5000))
def test_limits_of_the_server_are_divided(num_replicas: int, limit: int) -> None:
    admission = AdmissionLimits(max_wait_s=7, max_waiting_tokens=limit)
    options = ServerOptions(
        max_concurrent_requests=limit,
        max_connections=limit,
        pipeline=PipelineLimits(admission=admission, result_cache_bytes=limit),
    )

    shares = share(options, num_replicas=num_replicas, num_cpus=8, cpus=range(8))

    total = sum(each.options.max_concurrent_requests for each in shares)
    assert limit - num_replicas < total <= limit
    assert sum(each.options.max_connections for each in shares) == total
    limits = [each.options.pipeline for each in shares]
    assert sum(each.result_cache_bytes for each in limits) == total
    assert sum(each.admission.max_waiting_tokens for each in limits) == total
    assert {each.admission.max_wait_s for each in limits} == {7}
    assert {each.options.num_replicas for each in shares} == {num_replicas}


def test_what_a_key_may_ask_is_divided() -> None:
    limits = KeyLimits(max_requests=7, requests_per_s=5.0, burst=3)

    (one, other) = share(ServerOptions(key_limits=limits), num_replicas=2, num_cpus=2, cpus=[0, 1])

    assert one.options.key_limits == KeyLimits(max_requests=3, requests_per_s=2.5, burst=1)
    assert other.options.key_limits == one.options.key_limits


def test_no_limits_of_keys_stay_none_in_every_replica() -> None:
    shares = share(ServerOptions(), num_replicas=2, num_cpus=2, cpus=[0, 1])

    assert {each.options.key_limits for each in shares} == {KeyLimits()}


def test_a_key_without_a_request_in_a_replica_is_refused() -> None:
    options = ServerOptions(key_limits=KeyLimits(max_requests=2))

    with pytest.raises(UsageError, match="2 requests of a key at once are fewer than 3 replicas"):
        share(options, num_replicas=3, num_cpus=3, cpus=range(3))


def test_a_replica_without_a_request_is_refused() -> None:
    with pytest.raises(UsageError, match="2 requests at once are fewer than 3 replicas"):
        share(ServerOptions(max_concurrent_requests=2), num_replicas=3, num_cpus=3, cpus=range(3))


def test_a_replica_that_ends_again_and_again_waits_longer_each_time_and_then_for_ever() -> None:
    backoff = Backoff()
    pauses = []
    while not backoff.is_hopeless:
        backoff = backoff.after(served_s=1)
        pauses.append(backoff.pause_s)

    assert pauses[:4] == [0.5, 1, 2, 4]
    assert max(pauses) == LONGEST_PAUSE_S
    assert len(pauses) == MAX_FAILURES
    assert Backoff(10**6).pause_s == LONGEST_PAUSE_S


def test_a_replica_that_was_healthy_starts_over() -> None:
    assert Backoff(5).after(served_s=HEALTHY_AFTER_S) == Backoff(1)
