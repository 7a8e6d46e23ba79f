"""Launches that were recorded for small batches, and when to record one.

A small encoder is over in the time that its hundred kernels take to launch one by one; a graph
launches them at once. It is bound to a size and to addresses, so it belongs to one lane.
"""

import logging
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass

from beicli.artifact.gpu import Dimensions
from beicli.engine.tensorrt.contexts import Context
from beicli.engine.tensorrt.device import DeviceMemory, Graph
from beicli.errors import BeiError

logger = logging.getLogger(__name__)

# A size that comes once may never come again, and recording takes several times as long as a run.
_PLAIN_RUNS = 2


class GraphSwitch:
    """Whether launches are recorded: for all lanes, until one cannot be."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        return self._is_on

    def turn_off(self, reason: BeiError) -> None:
        """Record nothing any more; says so once."""
        with self._lock:
            was_on, self._is_on = self._is_on, False
        if was_on:
            logger.warning(
                "launches cannot be recorded, so small batches are slower: %s", reason.message
            )


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recorded launch.

    context: its own. What is done to a context after its launch was recorded, such as setting
    another shape, leaves the recording undefined.
    """

    graph: Graph
    context: Context


class Recordings:
    """What one lane has recorded; those longest unused make room for new ones.

    Used by one thread at a time, and changed only while nothing of the lane is running.
    """

    def __init__(self, device: DeviceMemory, max_recordings: int) -> None:
        self._device = device
        self._max_recordings = max_recordings
        self._recordings: OrderedDict[Dimensions, Recording] = OrderedDict()
        self._num_runs: Counter[Dimensions] = Counter()

    def get(self, dimensions: Dimensions) -> Recording | None:
        """Return the recording of a size, which is then the last to go."""
        recording = self._recordings.get(dimensions)
        if recording is not None:
            self._recordings.move_to_end(dimensions)
        return recording

    def is_due(self, dimensions: Dimensions) -> bool:
        """Count a run of a size; return whether it has come often enough to be recorded."""
        self._num_runs[dimensions] += 1
        return self._num_runs[dimensions] > _PLAIN_RUNS

    def put(self, dimensions: Dimensions, recording: Recording) -> None:
        """Keep a recording of a size that has none."""
        while len(self._recordings) >= self._max_recordings:
            self._evict()
        self._recordings[dimensions] = recording

    def clear(self) -> bool:
        """Destroy all, and begin counting anew; return whether there were any."""
        had_any = bool(self._recordings)
        self._num_runs.clear()
        while self._recordings:
            self._evict()
        return had_any

    def _evict(self) -> None:
        dimensions, recording = self._recordings.popitem(last=False)
        # It would be recorded at its next run, and push out another.
        del self._num_runs[dimensions]
        self._device.destroy_graph(recording.graph)
