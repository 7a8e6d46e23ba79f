"""Nothing that `bei` does with what lies on this machine connects to another one."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from tests import without_connections
from tests.cli.test_serve_process import REPOSITORY, serving
from tests.server.test_run import EMBEDDINGS
from tests.server.tiny_engine import make_artifact

pytestmark = pytest.mark.skipif(
    without_connections.hindrance() is not None, reason=str(without_connections.hindrance())
)

GUARDED = "tests.without_connections"
CONFIG = """\
model_name: tiny
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository: {{source: LOCAL, repo: "{checkpoint}"}}
"""
# What makes libraries silent, on this machine perhaps and not on everybody's.
SILENCERS = (
    "BEI_OFFLINE",
    "CI",
    "DO_NOT_TRACK",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SILENCERS:
        monkeypatch.delenv(name, raising=False)


def run_python(code: str, *, check: bool) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=check, cwd=REPOSITORY
    )


@pytest.mark.parametrize(
    ("guard", "attempt"),
    [
        ("forbid_connecting", "socket.create_connection(listener.getsockname())"),
        ("forbid_connecting", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"),
        ("forbid_connecting", "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"),
        ("forbid_internet", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"),
        ("forbid_internet", "socket.socket(socket.AF_INET6)"),
    ],
)
def test_the_guard_ends_whoever_turns_outwards(guard: str, attempt: str) -> None:
    code = (
        "import socket; from tests import without_connections\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        f"without_connections.{guard}()\n"
        "socket.socketpair()\n"
        "print('guarded', flush=True)\n"
        f"{attempt}\n"
    )

    done = run_python(code, check=False)

    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "guarded\n")
    assert without_connections.TRACE in done.stderr


def test_the_guard_of_a_server_lets_it_listen() -> None:
    code = (
        "import socket; from tests import without_connections\n"
        "without_connections.forbid_connecting()\n"
        "socket.create_server(('127.0.0.1', 0)); socket.socketpair(type=socket.SOCK_DGRAM)\n"
    )

    done = run_python(code, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_guard_speaks_for_a_process_that_nobody_waits_for() -> None:
    code = (
        "import os, socket; from tests import without_connections\n"
        "without_connections.forbid_internet()\n"
        "if os.fork() == 0: socket.socket(socket.AF_INET)\n"
        "os.wait()\n"
    )

    done = run_python(code, check=True)

    assert without_connections.TRACE in done.stderr


def test_the_tests_themselves_report_nothing() -> None:
    assert "openvino" in sys.modules
    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize("replicas", [1, 2])
def test_serving_connects_to_nobody(tmp_path: Path, replicas: int) -> None:
    engine = make_artifact(tmp_path / "engine").path

    with serving(engine, "--replicas", replicas, module=GUARDED) as served:
        for _ in range(4):
            assert httpx2.post(served.url + EMBEDDINGS, json={"input": "w1"}).status_code == 200
        for path in ("/info", "/ready", "/metrics", "/docs", "/openapi.json"):
            assert httpx2.get(served.url + path).status_code == 200

    assert without_connections.TRACE not in "".join(served.said)


def test_building_from_a_folder_connects_to_nobody(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(checkpoint=tiny_checkpoint), encoding="utf-8")
    output = tmp_path / "engine"

    done = subprocess.run(
        [sys.executable, "-m", GUARDED, "build", str(config), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )

    assert (done.returncode, done.stdout.strip()) == (0, str(output)), done.stderr
    assert without_connections.TRACE not in done.stderr
