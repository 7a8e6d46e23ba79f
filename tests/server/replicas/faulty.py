"""`python -m tests.server.replicas.faulty DIR NUM`: a server with replicas whose engines can break.

Every replica imports this module anew, as the processes that Python spawns do with the main one,
so what is changed here is changed in all of them.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server.fakes import FIRST_WORD_ID

from beicli.artifact.directory import EngineArtifact
from beicli.engine.base import Engine
from beicli.engine.batch import Batch, EngineOutput
from beicli.engine.load import load_engine
from beicli.pipeline import loaded_engine
from beicli.server import run
from beicli.server.options import ServerOptions
from beicli.server.replicas import beats, heartbeat
from beicli.server.replicas.supervisor import run_replicas

# The text `w2999` makes a forward pass hang for as long as anybody waits.
HANGING_WORD = 2999
# So that there are requests in flight at any moment.
FORWARD_S = 0.005
STALL_LIMIT_S = 1.0
# A loop turns even on a machine that does much else.
SILENCE_LIMIT_S = 4.0


@dataclass
class FaultyEngine:
    """The real engine, a little slower, unless HANGING_WORD comes."""

    engine: Engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def forward(self, batch: Batch) -> EngineOutput:
        time.sleep(10_000 if FIRST_WORD_ID + HANGING_WORD in batch.input_ids else FORWARD_S)
        return self.engine.forward(batch)


loaded_engine.load_engine = lambda artifact, options: FaultyEngine(load_engine(artifact, options))
heartbeat.STALL_LIMIT_S = STALL_LIMIT_S
heartbeat.CHECK_INTERVAL_S = 0.1
beats.SILENCE_LIMIT_S = SILENCE_LIMIT_S
beats.CHECK_INTERVAL_S = 0.2
# Nobody waits for long for a forward pass that never ends.
run.CLOSE_TIMEOUT_S = 0.5


def say(url: str) -> None:
    print(url, flush=True)


if __name__ == "__main__":
    run_replicas(
        [EngineArtifact.open(Path(sys.argv[1]))],
        # A line for every request, for whoever wants to know what became of each.
        ServerOptions(port=0, access_log=True, log_format="json"),
        num_replicas=int(sys.argv[2]),
        on_ready=say,
    )
