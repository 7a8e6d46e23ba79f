"""A load divided among the client processes: who sends which requests, serialised beforehand.

Pure: the clock starts only when all bodies lie ready.
"""

from collections.abc import Sequence

from beicli.bench.client import Share
from beicli.bench.loads import Load
from beicli.bench.routes import Route
from beicli.bench.settings import BenchSettings
from beicli.bench.texts import LengthClass, Texts
from beicli.bench.workload import Workload, plan_workload

_Bodies = tuple[tuple[tuple[bytes, ...], ...], ...]


def shares_of_load(
    load: Load, settings: BenchSettings, texts: Texts, num_processes: int
) -> list[Share]:
    """Return one share for each process; clients are dealt out like cards.

    Processes that a small load has no client for get an empty share.
    """
    # An open loop has one stream of requests a process, since any connection may send the next.
    num_clients = num_processes if load.concurrency is None else load.concurrency
    workload = plan_workload(
        texts.dataset,
        concurrency=num_clients,
        batch_size=settings.batch_size,
        seed=settings.seed,
        queries=texts.queries,
    )
    connections = _deal(settings.max_connections, num_processes)
    clients = [range(process, num_clients, num_processes) for process in range(num_processes)]
    bodies = [_bodies(workload, each, settings) for each in clients]
    return [
        Share(
            bodies=bodies[process],
            length_classes=_length_classes(texts, workload, clients[process], bodies[process]),
            max_connections=connections[process],
            rate_per_second=(
                None if load.rate_per_second is None else load.rate_per_second / num_processes
            ),
            seed=settings.seed * num_processes + process,
        )
        for process in range(num_processes)
    ]


def _length_classes(
    texts: Texts, workload: Workload, clients: Sequence[int], bodies: _Bodies
) -> dict[bytes, LengthClass]:
    """Return which requests of a mix are short and which long; none where a batch may be both."""
    if workload.batch_size > 1:
        return {}
    found = {}
    for of_server in bodies:
        for client, requests in zip(clients, of_server, strict=True):
            batches = workload.batches_in_one_pass(client)
            for (text,), body in zip(batches, requests, strict=True):
                if length := texts.length_class(text):
                    found[body] = length
    return found


def _bodies(workload: Workload, clients: Sequence[int], settings: BenchSettings) -> _Bodies:
    """Return the requests of one pass, [server][client][request]."""
    route = Route.of(settings)
    by_model: dict[str | None, tuple[tuple[bytes, ...], ...]] = {}
    for target in settings.targets:
        if target.model not in by_model:
            by_model[target.model] = tuple(
                tuple(
                    route.body(texts, query=workload.query_for(client + number), model=target.model)
                    for number, texts in enumerate(workload.batches_in_one_pass(client))
                )
                for client in clients
            )
    return tuple(by_model[target.model] for target in settings.targets)


def _deal(total: int, num_parts: int) -> list[int]:
    """Return parts as equal as can be, none of them less than 1."""
    return [max(len(range(part, total, num_parts)), 1) for part in range(num_parts)]
