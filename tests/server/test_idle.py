import asyncio
from collections.abc import Awaitable, Callable

from hypercorn.asyncio.task_group import TaskGroup

from beicli.server.idle import IdleContext, IdleTimer

Closed = list[str]


def run(
    use: Callable[[IdleContext, IdleTimer, TaskGroup], Awaitable[None]], *, timeout_s: float = 60.0
) -> Closed:
    """What was closed when a timer was used on a connection."""
    closed: Closed = []

    async def close() -> None:
        closed.append("closed")

    async def scenario() -> None:
        context = IdleContext()
        timer = IdleTimer(context, close, timeout_s=timeout_s)
        async with TaskGroup(asyncio.get_running_loop()) as tasks:
            await use(context, timer, tasks)

    asyncio.run(scenario())
    return closed


async def nothing() -> None:
    """Stand for what hypercorn would run."""


def test_a_connection_is_closed_when_it_was_idle_for_too_long() -> None:
    async def use(context: IdleContext, timer: IdleTimer, tasks: TaskGroup) -> None:
        await timer.restart(tasks, nothing)
        assert context.idle == {timer}
        await asyncio.sleep(0.05)
        assert context.idle == set()

    assert run(use, timeout_s=0.01) == ["closed"]


def test_a_request_ends_the_wait_and_an_answer_begins_another() -> None:
    async def use(context: IdleContext, timer: IdleTimer, tasks: TaskGroup) -> None:
        for _ in range(3):
            await timer.restart(tasks, nothing)
            await timer.stop()
        await asyncio.sleep(0.05)
        assert context.idle == set()

    assert run(use, timeout_s=0.01) == []


def test_a_stop_closes_what_is_idle_and_whatever_becomes_idle() -> None:
    async def use(context: IdleContext, timer: IdleTimer, tasks: TaskGroup) -> None:
        await timer.restart(tasks, nothing)
        await context.terminate_idle()
        await timer.restart(tasks, nothing)

    assert run(use) == ["closed", "closed"]


def test_a_stop_leaves_busy_connections_alone() -> None:
    async def use(context: IdleContext, timer: IdleTimer, tasks: TaskGroup) -> None:
        await timer.restart(tasks, nothing)
        await timer.stop()
        await context.terminate_idle()

    assert run(use) == []


def test_a_request_that_begins_in_the_moment_of_the_end_is_answered_first() -> None:
    async def use(context: IdleContext, timer: IdleTimer, tasks: TaskGroup) -> None:
        await timer.restart(tasks, nothing)
        await context.terminate_idle()
        # Before the connection is closed, which is another task's.
        await timer.stop()
        await asyncio.sleep(0.01)
        await timer.restart(tasks, nothing)

    # By the answer, not by the stop.
    assert run(use) == ["closed"]


def test_after_the_client_has_left_nothing_waits_any_more() -> None:
    async def use(context: IdleContext, timer: IdleTimer, tasks: TaskGroup) -> None:
        await timer.restart(tasks, nothing)
        timer.end()
        await timer.restart(tasks, nothing)
        assert context.idle == set()

    assert run(use) == []
