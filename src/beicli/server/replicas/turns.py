"""How many connections each replica holds, for all of them to see, so that none holds too many.

The kernel gives a new connection to whichever process asks first, and the one that computes asks
late: of eight clients that stay, one of two replicas got all, three times in six. A replica that
holds more than another therefore waits a little before it asks.
"""

from pathlib import Path

from beicli.server.replicas.shared_numbers import SharedNumbers

# Of a replica that accepts nothing: nobody needs to wait for it.
_AWAY = -1


class OpenConnections:
    """The counts of all replicas.

    A count that is read while it changes is off by one, and so is what follows.
    """

    def __init__(self, counts: SharedNumbers) -> None:
        self._counts = counts

    @classmethod
    def open(cls, path: Path, *, num_replicas: int) -> "OpenConnections":
        """Map the counts at `path`, which `create` has made."""
        return cls(SharedNumbers(path, num_replicas=num_replicas))

    @classmethod
    def create(cls, path: Path, *, num_replicas: int) -> "OpenConnections":
        """Make the file, with every replica away."""
        return cls(SharedNumbers.create(path, num_replicas=num_replicas, initial=_AWAY))

    def write(self, number: int, count: int) -> None:
        """Say how many connections the replica `number` holds."""
        self._counts[number] = count

    def leave(self, number: int) -> None:
        """Say that the replica `number` accepts nothing, until it writes again."""
        self.write(number, _AWAY)

    def has_more_than_others(self, number: int) -> bool:
        """Whether another replica that accepts holds fewer connections than `number` does."""
        counts = list(self._counts)
        return any(_AWAY < count < counts[number] for count in counts)

    def close(self) -> None:
        self._counts.close()


class Turns:
    """One replica's view of the counts: its own, and whether it is another's turn to accept."""

    def __init__(self, connections: OpenConnections, number: int) -> None:
        self._connections = connections
        self._number = number
        self._count = 0
        self._is_accepting = False

    def begin(self) -> None:
        """Count for the others from now on."""
        self._is_accepting = True
        self._add(0)

    def opened(self) -> None:
        self._add(1)

    def closed(self) -> None:
        self._add(-1)

    def end(self) -> None:
        """Accept no more; connections may still close."""
        self._is_accepting = False
        self._connections.leave(self._number)

    @property
    def is_anothers(self) -> bool:
        return self._connections.has_more_than_others(self._number)

    def _add(self, difference: int) -> None:
        self._count += difference
        if self._is_accepting:
            self._connections.write(self._number, self._count)
