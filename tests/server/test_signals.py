"""What SIGHUP does to a real `bei serve` with a small real engine."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.flow.test_replicas import replicas_of
from tests.server.fakes import TIMEOUT_S, wait_until
from tests.server.test_run import EMBEDDINGS
from tests.server.tiny_engine import make_artifact

from beicli.artifact.directory import read_manifest, stage_artifact
from beicli.artifact.manifest import manifest_digest


@contextmanager
def serving(engine: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`bei serve` with its address."""
    command = [sys.executable, "-m", "beicli", "serve", str(engine), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found is not None
            yield process, found[0]
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def embed(url: str) -> list[float]:
    answer = httpx2.post(url + EMBEDDINGS, json={"input": "w1 w2"}, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    vector: list[float] = answer.json()["data"][0]["embedding"]
    return vector


def build_again(engine: Path, *, seed: int) -> None:
    """Replace an engine directory as `bei build --force` does."""
    with stage_artifact(engine, force=True) as staging:
        made = make_artifact(staging / "made", seed=seed).path
        for part in made.iterdir():
            part.rename(staging / part.name)
        made.rmdir()


@pytest.mark.parametrize("options", [(), ("--replicas", "2")])
def test_a_hangup_serves_what_the_path_holds_now(tmp_path: Path, options: tuple[str, ...]) -> None:
    engine = make_artifact(tmp_path / "engine").path
    with serving(engine, *options) as (process, url):
        before = embed(url)
        build_again(engine, seed=2)
        assert embed(url) == before

        process.send_signal(signal.SIGHUP)
        wait_until(lambda: all(embed(url) != before for _ in range(4)))
        (engine / "manifest.json").write_text("{}")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: 'bei_reloads_total{result="failure"} 1.0' in metrics(url))

        assert embed(url) != before
        assert 'bei_reloads_total{result="success"} 1.0' in metrics(url)
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0
    assert "the reload failed, and the old engine goes on serving: `manifest.json` has" in said


@pytest.mark.parametrize("options", [(), ("--replicas", "2")])
def test_a_reload_over_http_drops_no_request(tmp_path: Path, options: tuple[str, ...]) -> None:
    engine = make_artifact(tmp_path / "engine").path
    stopped = threading.Event()
    with serving(engine, *options) as (_, url), ThreadPoolExecutor(3) as clients:

        def ask() -> int:
            num_asked = 0
            while not stopped.is_set():
                # A connection each, so that all replicas answer some.
                embed(url)
                num_asked += 1
            return num_asked

        asking = [clients.submit(ask) for _ in range(3)]
        try:
            seen = [embed(url)]
            for seed in (2, 3):
                build_again(engine, seed=seed)
                answer = httpx2.post(url + "/admin/reload", timeout=TIMEOUT_S)
                assert answer.json()["models"] == [
                    {"id": "tiny", "digest": manifest_digest(read_manifest(engine))}
                ]
                after = embed(url)
                assert all(embed(url) == after for _ in range(4))
                seen.append(after)
            (engine / "manifest.json").unlink()
            failed = httpx2.post(url + "/admin/reload", timeout=TIMEOUT_S)
        finally:
            stopped.set()
        assert all(each.result(TIMEOUT_S) > 5 for each in asking)
    assert seen[0] != seen[1] != seen[2]
    assert failed.status_code == 500
    assert "is not an engine directory" in failed.json()["error"]


@pytest.mark.parametrize("is_link", [True, False])
def test_a_replica_that_starts_anew_serves_what_the_others_do(
    tmp_path: Path, *, is_link: bool
) -> None:
    old, new = (make_artifact(tmp_path / name, seed=n).path for n, name in enumerate("ab"))
    path = tmp_path / "engine"
    if is_link:
        path.symlink_to(old)
    else:
        path = old
    with serving(path, "--replicas", "2") as (process, url):
        before = embed(url)
        victim, _ = replicas_of(process.pid)
        if is_link:
            (tmp_path / "link").symlink_to(new)
            (tmp_path / "link").replace(path)
        else:
            build_again(path, seed=2)

        os.kill(victim, signal.SIGKILL)
        if is_link:
            wait_until(lambda: len(set(replicas_of(process.pid)) - {victim}) == 2)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            assert embed(url) == before
        process.send_signal(signal.SIGHUP)

        # A replica that could not start waits a little before it tries again.
        wait_until(lambda: all(embed(url) != before for _ in range(8)))
        process.terminate()
        assert process.stderr is not None
        # The old directory is still there where a link was switched.
        assert ("was replaced after it was verified" in process.stderr.read()) is not is_link


def metrics(url: str) -> str:
    return httpx2.get(url + "/metrics").text


def test_a_terminal_that_is_closed_ends_its_server(tmp_path: Path) -> None:
    engine = make_artifact(tmp_path / "engine").path
    ours, theirs = pty.openpty()
    own_terminal = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    command = own_terminal + "from beicli.cli.app import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "serve", str(engine), "--port", "0"],
        stdin=theirs,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        try:
            assert "Serving" in process.stderr.readline()
            os.close(ours)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
