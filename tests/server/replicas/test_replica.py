import asyncio
from multiprocessing import Pipe

import pytest

from beicli.server.front import Front
from beicli.server.lifecycle import Lifecycle
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.replicas.replica import _Renewal
from beicli.server.replicas.words import Renew


def test_a_replica_that_is_stopped_meanwhile_does_not_say_that_it_has_reloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def renew(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("beicli.server.replicas.replica.renew", renew)

    async def run() -> bool:
        ours, theirs = Pipe()
        with ours, theirs:
            lifecycle = Lifecycle(on_ready=print)
            renewal = _Renewal(Front(ServerOptions(), ServerMetrics()), theirs, lifecycle)
            renewing = asyncio.create_task(renewal._renew(Renew([])))
            await asyncio.sleep(0.05)
            lifecycle.stop()
            await renewing
            return ours.poll()

    assert not asyncio.run(run())
