"""Several processes behind one address: what they share, and what happens when one ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from tests.flow.conftest import BEI, RunningServer, post, run_bei, serving

from beicli.artifact.directory import read_manifest, seal_artifact
from beicli.server.replicas.replica import COUNTS_NAME, PAGE_INTERVAL_S

pytestmark = pytest.mark.models

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def engine(build_minilm: Callable[[str], Path]) -> Path:
    return build_minilm("f32")


@pytest.fixture
def server(engine: Path) -> Iterator[RunningServer]:
    with serving(engine, "--replicas", "2") as running:
        yield running


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def replicas_of(pid: int) -> list[int]:
    """Return the processes of the replicas, not the helper that Python starts beside them."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"spawn_main" in command:
            found.append(int(child))
    return found


def count(server: RunningServer) -> float:
    found = re.search(
        r'^bei_requests_total\{route="/v1/embeddings",status="200"\} (\S+)$',
        httpx2.get(server.url + "/metrics").text,
        flags=re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return b"Z" not in Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1][:3]


def test_replicas_answer_alike_count_together_and_stand_in_for_each_other(
    server: RunningServer,
) -> None:
    first = post(server, "/v1/embeddings", {"input": "hello"})
    for _ in range(9):
        # A connection each, so both replicas accept some.
        assert post(server, "/v1/embeddings", {"input": "hello"}) == first
    # The page of the other is a second old at most, and no page takes back what another said.
    seen = [count(server) for _ in range(6)]
    assert seen == sorted(seen)
    wait_until(lambda: count(server) == 10)
    assert httpx2.get(server.url + "/info").json()["replicas"] == 2

    time.sleep(1.5 * PAGE_INTERVAL_S)
    victim, other = replicas_of(server.process.pid)
    os.kill(victim, signal.SIGKILL)
    # Connections that it had accepted break; whoever connects anew is answered.
    wait_until(lambda: not is_alive(victim))
    for _ in range(5):
        post(server, "/v1/embeddings", {"input": "hello"})
    wait_until(lambda: len(replicas_of(server.process.pid)) == 2)
    assert other in replicas_of(server.process.pid)
    # What the one that ended had counted, up to its last page, is still there.
    wait_until(lambda: count(server) == 15)


def num_connections(pid: int, server: RunningServer) -> int:
    """Count the connections of clients that a process holds."""
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    port = int(server.url.rsplit(":", 1)[1])
    table = [
        line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()
    ]
    # 01 is a connection that is established, as the kernel prints it.
    return sum(
        line[1].endswith(f":{port:04X}") and line[3] == "01" and f"socket:[{line[9]}]" in links
        for line in table
    )


def test_clients_that_stay_are_spread_over_the_replicas(server: RunningServer) -> None:
    pids = replicas_of(server.process.pid)
    with ExitStack() as clients:
        for _ in range(6):
            client = clients.enter_context(httpx2.Client())
            client.get(server.url + "/health")

        held = [num_connections(pid, server) for pid in pids]
        # Not quite even where one is held up for longer than the other waits.
        assert sum(held) == 6
        assert min(held) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_engines_load_ends_all_without_a_word(
    engine: Path, number: signal.Signals
) -> None:
    command = [BEI, "serve", engine, "--port", "0", "--replicas", "2"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_until(lambda: len(replicas_of(process.pid)) == 2)
        pids = replicas_of(process.pid)

        # A terminal's Ctrl-C goes to the whole group.
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=DEADLINE_S)

        assert (process.returncode, said) == (0, "")
        assert not any(map(is_alive, pids))


def test_a_stop_lets_requests_finish_and_leaves_no_process(engine: Path) -> None:
    with serving(engine, "--replicas", "2") as server:
        pids = replicas_of(server.process.pid)
        texts = ["a long text that takes a while " * 20] * 100
        statuses: list[int] = []

        def ask() -> None:
            body = {"input": [f"{number} {text}" for number, text in enumerate(texts)]}
            answer = httpx2.post(server.url + "/v1/embeddings", json=body, timeout=60)
            statuses.append(answer.status_code)

        running = threading.Thread(target=ask)
        running.start()
        time.sleep(0.2)
        # A terminal's Ctrl-C goes to the whole group.
        for pid in (server.process.pid, *pids):
            os.kill(pid, signal.SIGINT)
        running.join()

        assert statuses == [200]
        assert server.process.wait(DEADLINE_S) == 0
        assert not any(map(is_alive, pids))


def shared_folder(pid: int) -> Path:
    """Return where a replica finds what the others tell: it maps a file of that folder."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    found = re.search(rf"(/\S+)/{COUNTS_NAME}$", maps, flags=re.MULTILINE)
    assert found is not None
    return Path(found[1])


def test_replicas_do_not_outlive_their_supervisor(engine: Path) -> None:
    with serving(engine, "--replicas", "2") as server:
        pids = replicas_of(server.process.pid)
        assert len(pids) == 2
        folder = shared_folder(pids[0])
        assert folder.is_dir()

        server.process.kill()

        wait_until(lambda: not any(map(is_alive, pids)))
        # What they told each other is gone as well.
        assert not folder.exists()


def test_an_engine_that_does_not_load_ends_the_server_as_it_would_alone(
    engine: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "engine"
    shutil.copytree(engine, broken)
    (broken / "openvino" / "model.xml").write_text("no graph")
    seal_artifact(broken, read_manifest(broken))

    alone = run_bei("serve", broken, "--port", "0")
    together = run_bei("serve", broken, "--port", "0", "--replicas", "2")

    assert together.returncode == alone.returncode == 1
    # OpenVINO has its own words before that.
    message = alone.stderr[alone.stderr.index("error: OpenVINO cannot compile") :]
    assert together.stderr.endswith(message)
    assert together.stderr.count("error: OpenVINO") == 1


def test_each_replica_logs_its_requests_as_lines_of_json(engine: Path) -> None:
    options = ("--replicas", "2", "--log-format", "json", "--access-log")
    command = [str(BEI), "serve", str(engine), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = re.search(r'http://[^"\s]+', json.loads(process.stderr.readline())["message"])
            assert url is not None
            for number in range(20):
                httpx2.post(
                    f"{url[0]}/v1/embeddings",
                    json={"input": "said in confidence"},
                    headers={"x-request-id": f"request-{number}"},
                    timeout=60,
                )
        finally:
            process.terminate()
            said = process.stderr.read()

    lines = [json.loads(line) for line in said.splitlines()]
    assert {line["request_id"] for line in lines} == {f"request-{number}" for number in range(20)}
    assert {(line["route"], line["status"]) for line in lines} == {("/v1/embeddings", 200)}
    # Whoever is idle takes a connection, which may be one of them every time.
    assert {line["replica"] for line in lines} <= {0, 1}
    assert "confidence" not in said
