"""What there is around an application: its canary, who sends traces to a collector, a reload."""

from dataclasses import dataclass

from beicli.pipeline.apart import run_for
from beicli.server.admin import Reload
from beicli.server.canary import Canary
from beicli.server.options import ServerOptions
from beicli.server.traffic import RequestTracer

# A collector that does not answer holds a stop up for so long.
TRACES_CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Watchers:
    """Each is None where it is not wanted.

    reload: what `POST /admin/reload` does; without, it says that it cannot.
    """

    canary: Canary | None = None
    tracer: RequestTracer | None = None
    reload: Reload | None = None


def make_tracer(options: ServerOptions, *, model_name: str) -> RequestTracer | None:
    """Return who hears of every request; None unless a collector was named."""
    if options.otlp_endpoint is None:
        return None
    # An extra, and nobody else should wait for its import.
    from beicli.server.tracing import open_tracer  # noqa: PLC0415

    return open_tracer(options, model_name=model_name)


async def close_tracer(tracer: RequestTracer) -> None:
    """Send what is left, unless the collector holds that up for too long."""
    await run_for(tracer.close, name="bei-close-traces", timeout_s=TRACES_CLOSE_TIMEOUT_S)
