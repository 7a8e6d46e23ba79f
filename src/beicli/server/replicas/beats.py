"""When the event loop of each replica last turned, for the supervisor to see one that hangs.

A replica watches its engine itself (`heartbeat.py`), but not while its own loop stands still, or
its process was stopped.
"""

import asyncio
import time
from pathlib import Path

from beicli.server.replicas.shared_numbers import SharedNumbers

# A loop that does not turn for so long will not turn again.
SILENCE_LIMIT_S = 60.0
CHECK_INTERVAL_S = 5.0
# Between two checks: the supervisor itself stood still, as in a container that was paused, and the
# replicas with it.
PAUSED_AFTER_S = 4 * CHECK_INTERVAL_S
BEAT_INTERVAL_S = 1.0
# In the folder that replicas share.
BEATS_NAME = "beats"


class Beats:
    """The times, on the clock that all processes of a machine share."""

    def __init__(self, times: SharedNumbers) -> None:
        self._times = times

    @classmethod
    def open(cls, path: Path, *, num_replicas: int) -> "Beats":
        """Map the times at `path`, which `create` has made."""
        return cls(SharedNumbers(path, num_replicas=num_replicas))

    @classmethod
    def create(cls, path: Path, *, num_replicas: int) -> "Beats":
        """Make the file."""
        return cls(SharedNumbers.create(path, num_replicas=num_replicas, initial=0.0))

    def beat(self, number: int) -> None:
        """Say that the replica `number` is well, now."""
        self._times[number] = time.monotonic()

    def silent_for_s(self, number: int) -> float:
        """Return how long ago the replica `number` was well."""
        return time.monotonic() - self._times[number]

    async def keep_beating(self, number: int) -> None:
        """Say so again and again while the event loop turns."""
        while True:
            self.beat(number)
            await asyncio.sleep(BEAT_INTERVAL_S)

    def close(self) -> None:
        self._times.close()
