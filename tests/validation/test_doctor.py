"""What `bei doctor` finds, on machines with and without GPUs, packages and drivers."""

import time
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from beicli.artifact.manifest import Backend
from beicli.engine.tensorrt_llm.environment import PYTHON_VARIABLE, LlmEnvironment
from beicli.errors import GpuUnavailableError
from beicli.tensorrt.driver import CudaDevice, Driver
from beicli.validation import doctor
from beicli.validation.doctor import REQUIREMENTS, BackendDiagnosis, State, diagnose

ALL = {
    "openvino": "2026.4.1",
    "torch": "2.13.0+cpu",
    "transformers": "5.20.0",
    "safetensors": "0.6.0",
    "onnx": "1.19.0",
    "onnxscript": "0.5.6",
    "cuda-bindings": "13.5.0",
    "tensorrt": "11.4.0.106",
    "tensorrt-rtx": "1.7.1.116",
}
GB = 1_000_000_000
Machine = Callable[..., dict[Backend, BackendDiagnosis]]


def gpu(sm: int) -> CudaDevice:
    return CudaDevice(index=0, name="some GPU", sm=sm, memory_bytes=80 * GB)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Diagnose a machine with these packages, this GPU and this driver."""

    def diagnosed(
        packages: Mapping[str, str] = ALL,
        *,
        sm: int | None = None,
        cuda: tuple[int, int] = (13, 2),
        llm: str | None = None,
    ) -> dict[Backend, BackendDiagnosis]:
        def version(name: str) -> str:
            if name not in packages:
                raise PackageNotFoundError(name)
            return packages[name]

        def driver() -> Driver:
            if sm is None:
                raise GpuUnavailableError("there is no NVIDIA driver: it cannot be loaded")
            return Driver(version=cuda, devices=(gpu(sm),))

        monkeypatch.setattr(doctor, "version", version)
        monkeypatch.setattr(doctor, "read_driver", driver)
        monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
        if llm is not None:
            found = LlmEnvironment(python=Path("/llm/bin/python"), version=llm)
            monkeypatch.setattr(doctor, "find_environment", lambda: found)
        return {backend.name: backend for backend in diagnose().backends}

    return diagnosed


def states(backends: Mapping[Backend, BackendDiagnosis]) -> dict[str, State]:
    return {name: backend.state for name, backend in backends.items()}


def test_a_machine_with_everything_is_ready_for_everything(machine: Machine) -> None:
    backends = machine(sm=89, llm="1.3.0")

    assert set(states(backends).values()) == {State.READY}
    assert all(backend.lacks == () for backend in backends.values())


def test_without_a_gpu_engines_for_it_are_built_and_not_served(machine: Machine) -> None:
    backends = machine()

    assert states(backends) == {
        "openvino": State.READY,
        "tensorrt": State.BUILDS,
        "tensorrt-rtx": State.BUILDS,
        "tensorrt-llm": State.BUILDS,
        "torch": State.READY,
    }
    (lack,) = backends["tensorrt-rtx"].lacks
    assert lack.what == "there is no NVIDIA driver: it cannot be loaded"


def test_a_serving_image_on_a_gpu_serves_and_does_not_build(machine: Machine) -> None:
    serving = {name: ALL[name] for name in ("openvino", "cuda-bindings", "tensorrt")}

    backends = machine(serving, sm=90)

    assert states(backends) == {
        "openvino": State.SERVES,
        "tensorrt": State.SERVES,
        "tensorrt-rtx": State.MISSING,
        "tensorrt-llm": State.MISSING,
        "torch": State.MISSING,
    }
    assert {lack.fix for lack in backends["openvino"].lacks} == {"pip install 'beicli[build]'"}


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_package_that_is_too_old_or_missing_is_named_with_its_command(
    machine: Machine, name: str
) -> None:
    requirement = next(each for each in REQUIREMENTS if each.name == name)
    without = {other: version for other, version in ALL.items() if other != name}

    missing = machine(without, sm=89, llm="1.3.0")
    too_old = machine(without | {name: "0.0.1"}, sm=89, llm="1.3.0")

    for backends, words in (
        (missing, f"`{name}` is not installed"),
        (too_old, f"`{name}` 0.0.1 is installed; {requirement.wanted} is wanted"),
    ):
        lacks = {lack for backend in backends.values() for lack in backend.lacks}
        assert {lack.what for lack in lacks} == {words}
        assert requirement.command in {lack.fix for lack in lacks}


def test_a_package_that_is_too_new_is_not_suitable(machine: Machine) -> None:
    backends = machine(ALL | {"tensorrt-rtx": "1.8.0"}, sm=89)

    assert backends["tensorrt-rtx"].state is State.BUILDS
    assert backends["tensorrt"].state is State.READY


def test_tensorrt_is_found_under_the_name_of_its_cuda(machine: Machine) -> None:
    renamed = {name: version for name, version in ALL.items() if name != "tensorrt"}

    backends = machine(renamed | {"tensorrt-cu13": "11.4.0.106"}, sm=90)

    assert backends["tensorrt"].state is State.READY


@pytest.mark.parametrize(
    ("sm", "tensorrt", "rtx"),
    [
        (70, State.BUILDS, State.BUILDS),
        (89, State.READY, State.READY),
        (90, State.READY, State.BUILDS),
        (120, State.READY, State.READY),
    ],
)
def test_a_flavour_serves_the_gpus_that_it_has_kernels_for(
    machine: Machine, sm: int, tensorrt: State, rtx: State
) -> None:
    backends = machine(sm=sm)

    assert (backends["tensorrt"].state, backends["tensorrt-rtx"].state) == (tensorrt, rtx)


def test_a_driver_for_an_older_cuda_is_told_from_none(machine: Machine) -> None:
    (lack,) = machine(sm=90, cuda=(12, 8))["tensorrt"].lacks

    assert lack.what == "the driver runs CUDA up to 12.8; 13.0 is wanted"
    assert lack.fix == "update the NVIDIA driver to 580 or newer"


@pytest.mark.parametrize(
    ("version", "state"),
    [("1.2.1", State.BUILDS), ("1.3.0rc2", State.READY), ("1.10.0", State.READY)],
)
def test_a_version_of_tensorrt_llm_that_cannot_encode_is_told(
    machine: Machine, version: str, state: State
) -> None:
    backend = machine(sm=90, llm=version)["tensorrt-llm"]

    assert backend.state is state
    assert [lack.what for lack in backend.lacks] == (
        [] if state is State.READY else ["TensorRT-LLM 1.2.1 has no `LLM.encode`"]
    )


def test_what_is_wanted_is_what_the_project_states() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]

    for requirement in REQUIREMENTS:
        extra = requirement.extra
        extras = project["optional-dependencies"]
        stated = project["dependencies"] if extra is None else extras[extra]
        assert f"{requirement.name}{requirement.wanted}" in stated


def test_this_machine_is_diagnosed_at_once_and_openvino_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    started_at = time.monotonic()

    found = diagnose()

    assert time.monotonic() - started_at < 1.0
    assert found.can_serve
    assert next(each for each in found.backends if each.name == "openvino").state is State.READY
    assert found.tensorrt_llm is None
    assert found.tensorrt_llm_problem == (
        f"no environment with TensorRT-LLM is named: {PYTHON_VARIABLE} is not set"
    )
