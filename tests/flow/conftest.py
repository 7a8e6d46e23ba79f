"""Real engines and real servers: built once a test run, each served by a process of its own."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BEI = Path(sys.executable).parent / "bei"
CONFIG = Path(__file__).parents[2] / "examples" / "all-minilm-l6-v2.yaml"


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


@pytest.fixture(scope="session")
def build_minilm(
    minilm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Build MiniLM in a precision, once a run."""
    built: dict[str, Path] = {}

    def build(precision: str) -> Path:
        if precision not in built:
            output = tmp_path_factory.mktemp("engines") / f"minilm-{precision}"
            override = f"trt_llm.build.checkpoint_repository.repo={minilm_checkpoint}"
            done = run_bei(
                "build", CONFIG, "-o", output, "--set", override, "--precision", precision
            )
            assert done.returncode == 0, done.stderr
            built[precision] = output
        return built[precision]

    return build


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
