import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.flow.conftest import BEI, run_bei


def num_serving(engine: Path) -> int:
    """Processes that have this very directory on their command line."""
    return sum(
        str(engine).encode() in path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    )


def test_an_engine_is_served_for_the_run_and_stopped_after_it(
    build_minilm: Callable[[str], Path],
) -> None:
    engine = build_minilm("f32")
    before = num_serving(engine)

    options = ("--engine", engine, "--duration", "0.5", "--warmup", "0.2", "--length", "20")
    done = run_bei("bench", *options, "--client-processes", "2", "--json")

    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert 19 < run["dataset"]["mean_tokens"] < 21
    assert run["points"][0]["batch_fill"]["sequences_per_batch"] >= 1
    assert num_serving(engine) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_in_the_middle_is_reported_and_stops_the_engine_too(
    build_minilm: Callable[[str], Path], number: signal.Signals
) -> None:
    engine = build_minilm("f32")
    before = num_serving(engine)
    command = [str(BEI), "bench", "--engine", str(engine), "--duration", "60", "--warmup", "0"]

    with subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Measuring")
        time.sleep(0.5)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)

    assert process.returncode == 0, stderr
    assert json.loads(stdout)["interrupted"] is True
    assert num_serving(engine) == before
