import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beicli.bench.served_engine import serving
from beicli.errors import BenchError

READY = 'echo "Serving m (embed, f32, inputs up to 512 tokens) at http://127.0.0.1:4711" >&2'
# Ends when it is told to, and says so; from before the line that says it is ready.
TRAP = "trap 'echo stopped >> {log}; exit 0' TERM"
WAIT = "while :; do sleep 0.02; done"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def use_script(monkeypatch: pytest.MonkeyPatch, log: Path, *lines: str) -> None:
    """Have something else run in the place of `python -m beicli serve`."""
    script = log.with_name("python")
    start = f'echo "$$ $@" >> {log}'
    script.write_text("\n".join(["#!/bin/sh", start, *lines]).replace("{log}", str(log)) + "\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_the_address_is_that_which_the_server_tells(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    use_script(monkeypatch, log, TRAP, 'echo "warning: tuned on another machine" >&2', READY, WAIT)

    with serving(Path("engine")) as url:
        assert url == "http://127.0.0.1:4711"

    first, *rest = log.read_text().splitlines()
    assert first.split(maxsplit=1)[1] == "-m beicli serve engine --port 0"
    assert rest == ["stopped"]


def test_the_server_is_stopped_when_the_measurement_fails(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    use_script(monkeypatch, log, TRAP, READY, WAIT)

    with pytest.raises(KeyboardInterrupt), serving(Path("engine")):
        raise KeyboardInterrupt

    assert log.read_text().splitlines()[1:] == ["stopped"]


def test_a_server_that_talks_a_lot_is_listened_to(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    # More than a pipe holds.
    talk = "i=0; while [ $i -lt 3000 ]; do echo 'a line of about forty characters here' >&2"
    use_script(
        monkeypatch, log, TRAP, READY, f"{talk}; i=$((i+1)); done; echo talked >> {log}", WAIT
    )

    with serving(Path("engine")):
        deadline_s = time.monotonic() + 10
        while "talked" not in log.read_text() and time.monotonic() < deadline_s:
            time.sleep(0.02)

    assert log.read_text().splitlines()[1:] == ["talked", "stopped"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (['echo "error: engine is damaged" >&2', 'echo "hint: build it" >&2'], "engine is damaged"),
        (["echo 'Traceback' >&2", "echo 'ValueError: x' >&2"], "ValueError: x"),
        ([], "it said nothing"),
    ],
)
def test_a_server_that_does_not_start_is_quoted(
    monkeypatch: pytest.MonkeyPatch, log: Path, lines: list[str], reason: str
) -> None:
    use_script(monkeypatch, log, *lines, "exit 1")

    with pytest.raises(BenchError) as caught, serving(Path("engine")):
        pytest.fail("it must not begin")

    assert caught.value.message == f"`bei serve engine` did not start: {reason}"


def test_sigterm_stops_the_server_before_the_benchmark_leaves(log: Path) -> None:
    script = log.with_name("python")
    script.write_text(
        f"#!/bin/sh\necho $$ >> {log}\n{TRAP.replace('{log}', str(log))}\n{READY}\n{WAIT}\n"
    )
    script.chmod(0o755)
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from beicli.bench.served_engine import serving\n"
        f"sys.executable = {str(script)!r}\n"
        "with serving(Path('engine')) as url:\n    print(url, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://")
        process.send_signal(signal.SIGTERM)
        # As after Ctrl-C.
        assert process.wait(10) == -signal.SIGINT

    server, *rest = log.read_text().splitlines()
    assert rest == ["stopped"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(server), 0)
