"""When the event loop of each replica last turned, for the supervisor to see one that hangs.

A replica watches its engine itself (`heartbeat.py`), but not while its own loop stands still, or
its process was stopped.
"""

import asyncio
import mmap
import struct
import time
from pathlib import Path

# A loop that does not turn for so long will not turn again.
SILENCE_LIMIT_S = 60.0
CHECK_INTERVAL_S = 5.0
# Between two checks: the supervisor itself stood still, as in a container that was paused, and the
# replicas with it.
PAUSED_AFTER_S = 4 * CHECK_INTERVAL_S
BEAT_INTERVAL_S = 1.0
# In the folder that replicas share.
BEATS_NAME = "beats"

_TIME = struct.Struct("=d")


class Beats:
    """The times in a file that each process maps, on the clock that all of a machine share.

    In memory, so that a full disk silences nobody. Nothing is locked: everyone writes its own.
    """

    def __init__(self, path: Path, *, num_replicas: int) -> None:
        """Map the times at `path`, which `create` has made."""
        with path.open("r+b") as file:
            self._times = mmap.mmap(file.fileno(), num_replicas * _TIME.size)

    @classmethod
    def create(cls, path: Path, *, num_replicas: int) -> "Beats":
        """Make the file."""
        path.write_bytes(bytes(num_replicas * _TIME.size))
        return cls(path, num_replicas=num_replicas)

    def beat(self, number: int) -> None:
        """Say that the replica `number` is well, now."""
        _TIME.pack_into(self._times, number * _TIME.size, time.monotonic())

    def silent_for_s(self, number: int) -> float:
        """Return how long ago the replica `number` was well."""
        (at,) = _TIME.unpack_from(self._times, number * _TIME.size)
        return time.monotonic() - float(at)

    async def keep_beating(self, number: int) -> None:
        """Say so again and again while the event loop turns."""
        while True:
            self.beat(number)
            await asyncio.sleep(BEAT_INTERVAL_S)

    def close(self) -> None:
        self._times.close()
