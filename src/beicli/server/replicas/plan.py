"""How many replicas there are, what each of them gets, and when one that ended is started again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from beicli.errors import UsageError
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.server.options import KeyLimits, ServerOptions

# One event loop and one tokenizer feed about so many CPUs; see docs/how-to/serve-with-replicas.md.
CPUS_PER_REPLICA = 8
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# Whoever served for so long is healthy, and what happened before is forgotten.
HEALTHY_AFTER_S = 60.0
MAX_FAILURES = 8


@dataclass(frozen=True, slots=True)
class ReplicaShare:
    """What one replica gets: its number, the options it serves with, and its CPUs.

    cpus: none to leave it where the whole server runs.
    """

    number: int
    options: ServerOptions
    cpus: tuple[int, ...]


def auto_replicas(num_cpus: int) -> int:
    """Return how many replicas `--replicas auto` starts."""
    return max(num_cpus // CPUS_PER_REPLICA, 1)


def share(
    options: ServerOptions, *, num_replicas: int, num_cpus: int, cpus: Sequence[int]
) -> list[ReplicaShare]:
    """Divide a server among its replicas.

    num_cpus: what the server may use; cpus: those it may run on, which may be more. Limits of the
    whole server are divided; slots and threads are those of each replica as they are.
    Raises UsageError if a replica would be left without a request.
    """
    if options.max_concurrent_requests < num_replicas:
        raise UsageError(
            f"{options.max_concurrent_requests} requests at once are fewer than {num_replicas} "
            "replicas",
            hint="raise `--max-concurrent-requests`, or lower `--replicas`",
        )
    per_replica = num_cpus // num_replicas
    is_even = len(cpus) == num_cpus and num_cpus % num_replicas == 0
    engine = options.engine
    if engine.num_threads is None:
        engine = replace(engine, num_threads=max(per_replica, 1))
    own = replace(
        options,
        engine=engine,
        num_replicas=num_replicas,
        max_concurrent_requests=options.max_concurrent_requests // num_replicas,
        max_connections=max(options.max_connections // num_replicas, 1),
        key_limits=_share_of_key(options.key_limits, num_replicas),
        pipeline=_divide(options.pipeline, num_replicas),
    )
    return [
        ReplicaShare(
            number,
            replace(own, engine=replace(engine, replica_number=number)),
            tuple(cpus[number * per_replica : (number + 1) * per_replica]) if is_even else (),
        )
        for number in range(num_replicas)
    ]


def _divide(limits: PipelineLimits, num_replicas: int) -> PipelineLimits:
    """Divide amounts; a wait is no amount."""
    tokens = limits.admission.max_waiting_tokens // num_replicas
    return PipelineLimits(
        admission=replace(limits.admission, max_waiting_tokens=max(tokens, 1)),
        result_cache_bytes=limits.result_cache_bytes // num_replicas,
    )


def _share_of_key(limits: KeyLimits, num_replicas: int) -> KeyLimits:
    """Return what a key may ask of one replica."""
    max_requests, requests_per_s = limits.max_requests, limits.requests_per_s
    if max_requests is not None and max_requests < num_replicas:
        raise UsageError(
            f"{max_requests} requests of a key at once are fewer than {num_replicas} replicas",
            hint="raise `--max-requests-per-key`, or lower `--replicas`",
        )
    return KeyLimits(
        max_requests=None if max_requests is None else max_requests // num_replicas,
        requests_per_s=None if requests_per_s is None else requests_per_s / num_replicas,
        burst=max(limits.burst // num_replicas, 1),
    )


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often one replica ended in a row, and so how long the next start waits."""

    num_failures: int = 0

    def after(self, served_s: float) -> "Backoff":
        """Return what holds when a replica ended that had served for so long."""
        return Backoff(1 if served_s >= HEALTHY_AFTER_S else self.num_failures + 1)

    @property
    def pause_s(self) -> float:
        # Beyond that the pause is the longest anyway, and a float has an end.
        exponent = min(max(self.num_failures - 1, 0), MAX_FAILURES)
        return min(FIRST_PAUSE_S * float(2**exponent), LONGEST_PAUSE_S)

    @property
    def is_hopeless(self) -> bool:
        return self.num_failures >= MAX_FAILURES
