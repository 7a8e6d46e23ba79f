"""What a server does before its engine is there: it answers that it loads, and stops when told."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.server.fakes import TIMEOUT_S, FakeEngine, make_pipeline, wait_until
from tests.server.tiny_engine import make_artifact

from beicli.artifact.directory import EngineArtifact
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.front import Front
from beicli.server.lifecycle import Lifecycle
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.replicas.turns import OpenConnections, Turns
from beicli.server.run import bind_socket, serve_front

# A step that never ends, in a real `bei serve`.
PROGRAM = """
import sys, time
import beicli.artifact.directory, beicli.pipeline.loaded_engine

def hang(*_):
    print("hangs", flush=True)
    time.sleep(60)

if sys.argv.pop(1) == "verify":
    beicli.artifact.directory.verify_file = hang
else:
    beicli.pipeline.loaded_engine.load_engine = hang
from beicli.cli.app import main
main()
"""


@pytest.fixture
def artifact(tmp_path: Path) -> EngineArtifact:
    return make_artifact(tmp_path / "engine")


@contextmanager
def hanging_server(
    artifact: EngineArtifact, step: str, *options: str
) -> Iterator["subprocess.Popen[str]"]:
    """`bei serve` in a step that does not end."""
    command = [sys.executable, "-c", PROGRAM, step, "serve", str(artifact.path), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "hangs\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["verify", "load"])
def test_a_stop_before_the_engine_is_there_ends_the_process_without_a_word(
    artifact: EngineArtifact, step: str, number: signal.Signals
) -> None:
    with hanging_server(artifact, step, "--port", "0") as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=TIMEOUT_S)

        assert (process.returncode, said) == (0, "")


@pytest.fixture
def loading_url(artifact: EngineArtifact) -> Iterator[str]:
    """The address of a server that loads its engine."""
    with bind_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with hanging_server(artifact, "load", "--port", str(port)):
        yield f"http://127.0.0.1:{port}"


def test_every_route_of_a_server_that_loads_says_so_and_when_to_ask_again(loading_url: str) -> None:
    wait_until(lambda: httpx2.get(loading_url + "/health").status_code == 503)
    answers = [
        *(httpx2.get(loading_url + path) for path in ("/", "/ready", "/ping", "/metrics")),
        *(httpx2.post(loading_url + path, content=b"x" * 10**6) for path in ("/embed", "/rerank")),
    ]

    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"5"}
    assert all("x-request-id" in answer.headers for answer in answers)
    assert answers[-1].json() == {
        "error": "the server is loading its engine",
        "error_type": "Unhealthy",
        "hint": "ask again in a few seconds",
    }


@pytest.mark.parametrize("prefix", ["", "/environments/production/sync"])
def test_clients_of_openai_are_told_in_their_own_shape(loading_url: str, prefix: str) -> None:
    answer = httpx2.post(f"{loading_url}{prefix}/v1/embeddings", json={"input": "w1"})

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "service_unavailable"


def test_a_replica_accepts_nothing_before_its_engine_is_warm(tmp_path: Path) -> None:
    counts = OpenConnections.create(tmp_path / "counts", num_replicas=2)

    async def serve(listener: socket.socket) -> None:
        lifecycle = Lifecycle(on_ready=print, turns=Turns(counts, 0))

        async def load() -> list[InferencePipeline]:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*listener.getsockname())
            lifecycle.stop()
            return [make_pipeline(FakeEngine())]

        front = Front(ServerOptions(), ServerMetrics())
        await serve_front(front, load, lifecycle, listener=listener)

    with bind_socket("127.0.0.1", 0) as listener:
        asyncio.run(serve(listener))
