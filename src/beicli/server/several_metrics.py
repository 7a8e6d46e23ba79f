"""`/metrics` of a server with several engines: what each of them counted, with its name."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from beicli.server.metrics import ServerMetrics
from beicli.server.replicas.pages import MetricsPages

# Counted before it is known which engine is asked, or for all of them.
_OF_THE_SERVER = frozenset(
    {"bei_requests", "bei_failed_requests", "bei_reloads", "bei_open_connections"}
)


class SeveralMetrics(ServerMetrics):
    """Counts for the server itself, and has others that count for an engine each.

    names: what the engines are called when the server starts. They stay in the labels when a reload
    brings engines of other names, as a counter under a new name would begin at zero.
    """

    def __init__(self, names: Sequence[str], pages: MetricsPages | None = None) -> None:
        super().__init__(pages)
        self._names = names
        self._engines = [ServerMetrics() for _ in names]

    @property
    def engines(self) -> Sequence[ServerMetrics]:
        return self._engines

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of the engines, each labelled with its model, then the server's."""
        found: dict[str, Metric] = {}
        for name, engine in zip(self._names, self._engines, strict=True):
            for metric in engine.collect():
                if metric.name not in _OF_THE_SERVER:
                    empty = Metric(metric.name, metric.documentation, metric.type)
                    found.setdefault(metric.name, empty).samples += [
                        sample._replace(labels={"model": name, **sample.labels})
                        for sample in metric.samples
                    ]
        yield from found.values()
        yield from (each for each in super().collect() if each.name in _OF_THE_SERVER)


def metrics_of(names: Sequence[str], pages: MetricsPages | None = None) -> ServerMetrics:
    """Return the metrics of a server with engines of these names.

    pages: those of all replicas, if there are several.
    """
    return ServerMetrics(pages) if len(names) == 1 else SeveralMetrics(names, pages)
