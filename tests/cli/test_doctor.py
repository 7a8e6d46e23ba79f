"""What a user reads of `bei doctor`, and what a program does."""

import json
import sys
from collections.abc import Callable

import pytest
from inline_snapshot import snapshot

from beicli.cli.app import main
from beicli.machine import Machine
from beicli.tensorrt.driver import CudaDevice, Driver
from beicli.validation import doctor
from beicli.validation.doctor import BackendDiagnosis, Diagnosis, Lack, Package

Run = Callable[..., tuple[int, str, str]]

MACHINE = Machine(
    cpu="Some CPU", cpu_features=("avx2", "amx_bf16"), num_cpus=8, memory_bytes=64_000_000_000
)
H100 = CudaDevice(index=0, name="NVIDIA H100", sm=90, memory_bytes=85_000_000_000)
PACKAGES = (
    Package(name="openvino", version="2026.4.1", wanted=">=2026.4,<2027", is_suitable=True),
    Package(name="torch", version="2.5.0", wanted=">=2.13,<3", is_suitable=False),
    Package(name="tensorrt", version=None, wanted=">=11,<12", is_suitable=False),
)
NO_TENSORRT = Lack(
    what="`tensorrt` is not installed", fix="pip install 'beicli[tensorrt]'", purpose="serve"
)
NO_TORCH = Lack(
    what="`torch` 2.5.0 is installed; >=2.13,<3 is wanted",
    fix="pip install 'beicli[build]'",
    purpose="build",
)
FOUND = Diagnosis(
    machine=MACHINE,
    driver=Driver(version=(13, 2), devices=(H100,)),
    driver_problem=None,
    packages=PACKAGES,
    tensorrt_llm="1.3.0",
    tensorrt_llm_problem=None,
    backends=(
        BackendDiagnosis(name="openvino", lacks=(NO_TORCH,)),
        BackendDiagnosis(name="tensorrt", lacks=(NO_TORCH, NO_TENSORRT)),
        BackendDiagnosis(name="tensorrt-llm", lacks=()),
    ),
)
NOTHING = Diagnosis(
    machine=MACHINE,
    driver=None,
    driver_problem="there is no NVIDIA driver: `libcuda.so.1` cannot be loaded",
    packages=(),
    tensorrt_llm=None,
    tensorrt_llm_problem="no environment with TensorRT-LLM is named",
    backends=(BackendDiagnosis(name="tensorrt", lacks=(NO_TENSORRT,)),),
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `bei doctor` on a machine of which this was found; return exit code, stdout, stderr."""

    def run(found: Diagnosis, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(doctor, "diagnose", lambda: found)
        monkeypatch.setattr(sys, "argv", ["bei", "doctor", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        assert isinstance(ending.value.code, int)
        return ending.value.code, captured.out, captured.err

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return run


def test_a_table_says_what_each_backend_lacks_and_the_commands_come_after_it(run: Run) -> None:
    code, out, err = run(FOUND)

    assert (code, err) == (0, "can serve here: openvino, tensorrt-llm\n")
    assert "\n".join(line.rstrip() for line in out.splitlines()) == snapshot("""\
cpu: Some CPU
cpu features: avx2 amx_bf16
cpus: 8, memory: 64.0 GB
nvidia driver: CUDA up to 13.2
gpu 0: NVIDIA H100, sm90, 85.0 GB

package        installed            wanted
───────────────────────────────────────────────────────
openvino       2026.4.1             >=2026.4,<2027
torch          2.5.0 (unsuitable)   >=2.13,<3
tensorrt       -                    >=11,<12
tensorrt-llm   1.3.0                its own environment

backend        state                         lacks
────────────────────────────────────────────────────────────────────────────────
openvino       can serve, cannot build       `torch` 2.5.0 is installed;
                                             >=2.13,<3 is wanted
tensorrt       can neither build nor serve   `torch` 2.5.0 is installed;
                                             >=2.13,<3 is wanted
                                             `tensorrt` is not installed
tensorrt-llm   ready                         -

# openvino
pip install 'beicli[build]'

# tensorrt
pip install 'beicli[build]'
pip install 'beicli[tensorrt]'\
""")


def test_where_nothing_can_serve_the_exit_code_is_1(run: Run) -> None:
    code, out, err = run(NOTHING)

    assert (code, err) == (1, "can serve here: nothing\n")
    assert "gpus: none, there is no NVIDIA driver: `libcuda.so.1` cannot be loaded\n" in out


def test_a_program_reads_json(run: Run) -> None:
    code, out, err = run(FOUND, "--json")

    answer = json.loads(out)
    assert (code, err) == (0, "can serve here: openvino, tensorrt-llm\n")
    assert answer["schema_version"] == 1
    assert set(answer) == {
        "schema_version",
        "machine",
        "driver",
        "driver_problem",
        "packages",
        "tensorrt_llm",
        "tensorrt_llm_problem",
        "backends",
    }
    assert answer["driver"]["version"] == [13, 2]
    assert answer["driver"]["devices"][0]["sm"] == 90
    assert answer["backends"][0] == {
        "name": "openvino",
        "state": "can serve, cannot build",
        "can_build": False,
        "can_serve": True,
        "lacks": [
            {
                "what": "`torch` 2.5.0 is installed; >=2.13,<3 is wanted",
                "fix": "pip install 'beicli[build]'",
                "purpose": "build",
            }
        ],
    }


def test_json_of_a_machine_that_serves_nothing_ends_with_1(run: Run) -> None:
    code, out, _ = run(NOTHING, "--json")

    assert code == 1
    assert json.loads(out)["driver"] is None
