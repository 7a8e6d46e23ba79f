from beicli.server.replicas.rolling import RollingReload
from beicli.server.replicas.words import Failed

FAILED = Failed("out of memory", None)


def test_replicas_exchange_their_engines_one_after_the_other() -> None:
    rolling = RollingReload()

    order = []
    while (number := rolling.take_next([0, 1, 2])) is not None:
        assert rolling.take_next([0, 1, 2]) is None
        assert not rolling.is_over([0, 1, 2])
        order.append(number)
        assert not rolling.ended(number, None)

    assert order == [0, 1, 2]
    assert rolling.is_over([0, 1, 2])
    assert rolling.failure is None


def test_if_the_first_cannot_all_keep_their_engines() -> None:
    rolling = RollingReload()
    rolling.take_next([0, 1])

    assert not rolling.ended(0, FAILED)

    assert rolling.take_next([0, 1]) is None
    assert rolling.is_over([0, 1])
    assert rolling.failure == FAILED


def test_one_that_cannot_after_another_could_is_started_anew_with_what_that_serves() -> None:
    rolling = RollingReload()
    rolling.ended(rolling.take_next([0, 1]) or 0, None)
    assert rolling.take_next([0, 1]) == 1

    assert rolling.ended(1, FAILED)
    rolling.started(1)

    assert rolling.is_over([0, 1])
    assert rolling.failure is None


def test_one_that_loads_the_old_engine_meanwhile_has_its_turn_when_it_serves() -> None:
    rolling = RollingReload()
    rolling.started(1)
    rolling.ended(rolling.take_next([0]) or 0, None)

    assert rolling.take_next([0]) is None
    assert not rolling.is_over([0, 1])
    assert rolling.take_next([0, 1]) == 1


def test_one_that_starts_after_the_first_exchange_needs_none() -> None:
    rolling = RollingReload()
    rolling.ended(rolling.take_next([0]) or 0, None)

    rolling.started(1)

    assert rolling.is_over([0, 1])


def test_nobody_there_is_no_success() -> None:
    rolling = RollingReload()

    assert rolling.take_next([]) is None
    assert not rolling.is_over([])


def test_what_somebody_else_says_changes_nothing() -> None:
    rolling = RollingReload()
    rolling.take_next([0, 1])

    assert not rolling.ended(1, FAILED)

    assert rolling.failure is None
    assert rolling.renewing == 0
