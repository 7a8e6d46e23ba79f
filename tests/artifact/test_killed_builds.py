import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.artifact.engines import build

from beicli.artifact.names import MANIFEST_NAME

STAGE_AND_WAIT = """
import sys, time
from pathlib import Path
from beicli.artifact.directory import stage_artifact
with stage_artifact(Path(sys.argv[1])) as staging:
    (staging / "half.bin").write_bytes(b"half a file")
    print("staged", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["engine", "engine[1] *"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A name that means itself, and one that means others to a glob."""
    return tmp_path / str(request.param)


@pytest.fixture
def builder(output: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of building `output`."""
    command = [sys.executable, "-c", STAGE_AND_WAIT, str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        yield process
        process.kill()


def test_a_killed_build_leaves_nothing_visible_and_the_next_one_sweeps_the_rest(
    builder: subprocess.Popen[str], output: Path
) -> None:
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    leftovers = list(output.parent.iterdir())
    assert len(leftovers) == 1
    assert leftovers[0].name.startswith(".")

    build(output)

    assert list(output.parent.iterdir()) == [output]


def test_the_sweep_leaves_a_running_build_alone(
    builder: subprocess.Popen[str], output: Path
) -> None:
    (running,) = output.parent.iterdir()

    build(output)

    assert sorted(output.parent.iterdir()) == sorted([output, running])
    assert (running / "half.bin").read_bytes() == b"half a file"


def test_the_sweep_leaves_builds_of_other_outputs_alone(
    builder: subprocess.Popen[str], output: Path
) -> None:
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    (leftover,) = output.parent.iterdir()

    build(output.parent / "engine1")

    assert leftover.exists()


def test_the_sweep_takes_what_a_replacement_left_when_it_was_killed(tmp_path: Path) -> None:
    rest = tmp_path / ".engine.bei-staging-abc"
    rest.mkdir()
    (rest / MANIFEST_NAME).write_text("of the engine that was replaced")

    build(tmp_path / "engine")

    assert not rest.exists()


def test_a_terminated_build_leaves_nothing_when_the_signal_becomes_an_exit(
    tmp_path: Path,
) -> None:
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n" + STAGE_AND_WAIT
    )
    command = [sys.executable, "-c", program, str(tmp_path / "engine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait() == 143

    assert list(tmp_path.iterdir()) == []
