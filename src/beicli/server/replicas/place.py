"""One place among the replicas, as the supervisor sees it."""

import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from beicli.server.replicas.plan import Backoff, ReplicaShare
from beicli.server.replicas.words import Failed


@dataclass(slots=True)
class Replica:
    """A place, and the process that fills it now.

    control: None while no process runs. is_ready: whether this process accepts requests.
    is_leaving: whether this process was told to end, for another one to take its place.
    starts_at: when the next process is started, on the monotonic clock.
    """

    share: ReplicaShare
    process: SpawnProcess | None = None
    control: Connection | None = None
    is_ready: bool = False
    is_leaving: bool = False
    ready_at: float = 0.0
    starts_at: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    failed: Failed | None = None

    @property
    def number(self) -> int:
        return self.share.number

    @property
    def is_of_use(self) -> bool:
        """Whether it serves, or is likely to soon."""
        return (self.process is not None and self.is_ready) or not self.backoff.is_hopeless

    def served_s(self) -> float:
        return time.monotonic() - self.ready_at if self.is_ready else 0.0

    def tell(self, word: object) -> None:
        """Say something to the process; one that ends by itself hears nothing."""
        if self.control is not None:
            try:
                self.control.send(word)
            except OSError:
                return
