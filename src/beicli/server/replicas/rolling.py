"""Which replica exchanges its engine when, in a reload that goes through all of them.

No clock, no process and no pipe: `reloads.py` says what happened and does what is due. If the first
replica cannot serve the new engines, all keep the old ones; one that cannot later, though another
could, is to be started anew.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from beicli.server.replicas.words import Failed


@dataclass(slots=True)
class RollingReload:
    """One reload on its way through the replicas, which are known by their numbers.

    renewing: who exchanges its engine now. renewed: who has, or was started with the new one.
    """

    renewing: int | None = None
    renewed: set[int] = field(default_factory=set)
    failure: Failed | None = None

    def take_next(self, ready: Collection[int]) -> int | None:
        """Return who is to begin now, of those that serve; None while somebody else is at it."""
        if self.renewing is not None or self.failure is not None:
            return None
        self.renewing = min(set(ready) - self.renewed, default=None)
        return self.renewing

    def is_over(self, running: Collection[int]) -> bool:
        """Whether all that run serve the new engines or are going to, or none is."""
        if self.renewing is not None:
            return False
        has_all = bool(self.renewed) and self.renewed.issuperset(running)
        return self.failure is not None or has_all

    def ended(self, number: int, failure: Failed | None) -> bool:
        """Hear what became of an exchange; says whether that replica is to be started anew."""
        if number != self.renewing:
            return False
        self.renewing = None
        if failure is None:
            self.renewed.add(number)
        elif not self.renewed:
            self.failure = failure
        return failure is not None and bool(self.renewed)

    def started(self, number: int) -> None:
        """Hear that a replica was started, with what most are to serve by now."""
        if self.renewed:
            self.renewed.add(number)
