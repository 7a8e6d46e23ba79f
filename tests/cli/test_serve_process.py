"""`bei serve` as a process: what it says, and what options make of the server it becomes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from tests.server.certificates import make_certificate, trusting
from tests.server.test_run import EMBEDDINGS
from tests.server.tiny_engine import make_artifact

REPOSITORY = Path(__file__).parents[2]
BODY = {"input": "w1"}
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("serve") / "engine").path


@dataclass(frozen=True)
class Served:
    """A server that answers; said: its lines on stderr, up to the one with its address at first."""

    url: str
    said: list[str]
    process: "subprocess.Popen[str]"


@contextmanager
def serving(
    engine: Path, *arguments: object, module: str = "beicli", **environment: str
) -> Iterator[Served]:
    """Run `bei serve` during the block; it must end well."""
    command = [sys.executable, "-m", module, "serve", str(engine), "--port", "0"]
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | environment,
    ) as process:
        assert process.stderr is not None
        try:
            said: list[str] = []
            while not said or "Serving" not in said[-1]:
                line = process.stderr.readline()
                assert line, f"ended with {process.wait()}: {''.join(said)}"
                said.append(line)
            yield Served(said[-1].rpartition(" at ")[2].strip(), said, process)
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0
            said += process.stderr.readlines()
        finally:
            process.kill()


def run(engine: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "beicli", "serve", str(engine), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


@pytest.mark.parametrize("replicas", [1, 2])
def test_https_is_served_by_one_process_and_by_several(
    engine: Path, tmp_path: Path, replicas: int
) -> None:
    files = make_certificate(tmp_path)
    options = ["--tls-certificate", files.certificate, "--tls-key", files.key]

    with serving(engine, "--replicas", replicas, *options) as served:
        assert served.url.startswith("https://127.0.0.1:")
        for http2, version in ((False, "HTTP/1.1"), (True, "HTTP/2")):
            with httpx2.Client(verify=trusting(files), http2=http2, timeout=TIMEOUT_S) as client:
                answer = client.post(served.url + EMBEDDINGS, json=BODY)

                assert (answer.status_code, answer.http_version) == (200, version)


def test_half_of_tls_is_wrong_usage(engine: Path, tmp_path: Path) -> None:
    files = make_certificate(tmp_path)

    done = run(engine, "--tls-certificate", files.certificate)

    assert done.returncode == 2
    assert done.stderr.startswith("error: `--tls-certificate` is given without `--tls-key`\n")


def test_an_image_that_listens_everywhere_warns_until_there_is_a_key(engine: Path) -> None:
    with serving(engine, BEI_HOST="0.0.0.0") as served:
        assert served.said[0] == (
            "warning: whoever reaches 0.0.0.0 may use the model: no API key is set\n"
        )
    with serving(engine, BEI_HOST="0.0.0.0", BEI_API_KEY="some-key other-key") as served:
        assert "warning: whoever" not in "".join(served.said)
        url = served.url.replace("0.0.0.0", "127.0.0.1") + EMBEDDINGS
        for key, status in (("some-key", 200), ("other-key", 200), ("some-key other-key", 401)):
            headers = {"authorization": f"Bearer {key}"}
            assert httpx2.post(url, json=BODY, headers=headers).status_code == status


def test_limits_of_keys_reach_the_server(engine: Path) -> None:
    options = ["--api-key", "one", "--api-key", "two", "--rate-limit-per-key", "0.01"]
    with serving(engine, *options) as served:
        statuses = [
            httpx2.post(
                served.url + EMBEDDINGS, json=BODY, headers={"authorization": f"Bearer {key}"}
            ).status_code
            for key in ("one", "one", "two", "two")
        ]

    assert statuses == [200, 429, 200, 429]


def test_pages_of_the_sites_that_are_named_are_let_in(engine: Path) -> None:
    sites = "https://one.example https://two.example"
    with serving(engine, BEI_CORS_ORIGIN=sites) as served:
        allowed = [
            httpx2.get(served.url + "/health", headers={"origin": origin}).headers.get(
                "access-control-allow-origin"
            )
            for origin in (*sites.split(), "https://three.example")
        ]

    assert allowed == [*sites.split(), None]


def test_limits_of_connections_and_texts_reach_the_server(engine: Path) -> None:
    with serving(engine, "--max-input-characters", 20, "--max-connections", 1) as served:
        answer = httpx2.post(served.url + EMBEDDINGS, json={"input": "w1 " * 7})
        with httpx2.Client() as first:
            assert first.get(served.url + "/health").status_code == 200
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.get(served.url + "/health", timeout=0.3)

    assert "21 characters; 20 are read" in json.dumps(answer.json())
