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
    """Counts for the server itself, and has others that count for an engine each."""

    def __init__(self, num_engines: int, pages: MetricsPages | None = None) -> None:
        super().__init__(pages)
        self._engines = [ServerMetrics() for _ in range(num_engines)]

    @property
    def engines(self) -> Sequence[ServerMetrics]:
        return self._engines

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of the engines, each labelled with its model, then the server's."""
        found: dict[str, Metric] = {}
        for engine in self._engines:
            for metric in engine.collect():
                if metric.name not in _OF_THE_SERVER:
                    empty = Metric(metric.name, metric.documentation, metric.type)
                    found.setdefault(metric.name, empty).samples += [
                        sample._replace(labels={"model": engine.model_name, **sample.labels})
                        for sample in metric.samples
                    ]
        yield from found.values()
        yield from (each for each in super().collect() if each.name in _OF_THE_SERVER)


def metrics_of(num_engines: int, pages: MetricsPages | None = None) -> ServerMetrics:
    """Return the metrics of a server; pages: those of all replicas, if there are several."""
    return ServerMetrics(pages) if num_engines == 1 else SeveralMetrics(num_engines, pages)
