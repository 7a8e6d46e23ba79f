"""Real engines and real servers: built once a test run, each served by a process of its own."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

BEI = Path(sys.executable).parent / "bei"
EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = EXAMPLES / "all-minilm-l6-v2"


@dataclass(frozen=True)
class RunningServer:
    url: str
    process: "subprocess.Popen[str]"


def run_bei(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [str(BEI), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@contextmanager
def serving(engine: Path, *arguments: str) -> Iterator[RunningServer]:
    command = [str(BEI), "serve", str(engine), "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"http://\S+", line)
            assert found, line + process.stderr.read()
            yield RunningServer(found.group(), process)
        finally:
            process.terminate()
            process.wait(30)


def post(server: RunningServer, path: str, body: object, *, status: int = 200) -> Any:
    """Send a body and return the answer's JSON; the status must be `status`."""
    response = httpx2.post(server.url + path, json=body, timeout=60)
    assert response.status_code == status, response.text
    return response.json()


@pytest.fixture(scope="session")
def build_example(
    models_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Build an example configuration of a test model in a precision, once a run."""
    built: dict[tuple[str, str], Path] = {}

    def build(name: str, precision: str) -> Path:
        if (name, precision) not in built:
            output = tmp_path_factory.mktemp("engines") / f"{name}-{precision}"
            checkpoint = models_directory / name
            assert checkpoint.is_dir(), f"{checkpoint} is missing; run `make models`"
            override = f"trt_llm.build.checkpoint_repository.repo={checkpoint}"
            arguments = [EXAMPLES / name, "-o", output, "--set", override]
            done = run_bei("build", *arguments, "--precision", precision)
            assert done.returncode == 0, done.stderr
            built[name, precision] = output
        return built[name, precision]

    return build


@pytest.fixture(scope="session")
def build_minilm(build_example: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """Build MiniLM in a precision, once a run."""
    return partial(build_example, "all-minilm-l6-v2")


def cpu_precisions() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return ["f32", "bf16"] if re.search(r"avx512_bf16|amx_bf16", flags) else ["f32"]


@pytest.fixture(scope="session", params=cpu_precisions())
def precision(request: pytest.FixtureRequest) -> str:
    """Every precision this CPU computes."""
    return str(request.param)


@pytest.fixture(scope="session")
def engine(precision: str, build_minilm: Callable[[str], Path]) -> Path:
    return build_minilm(precision)


@pytest.fixture(scope="session")
def server(engine: Path) -> Iterator[RunningServer]:
    with serving(engine) as running:
        yield running
