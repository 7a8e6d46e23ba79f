"""What each backend could do on this machine, and what it lacks.

Nothing heavy is imported: packages are known by their metadata, GPUs by the driver's own library.
Nothing is printed either; `cli/doctor.py` draws what is found.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from beicli.artifact.manifest import Backend
from beicli.engine.tensorrt_llm.environment import find_environment
from beicli.errors import BeiError, GpuUnavailableError, ToolMissingError
from beicli.machine import Machine, this_machine
from beicli.tensorrt.driver import CUDA, CUDA_DRIVER, CudaDevice, Driver, read_driver
from beicli.tensorrt.targets import RTX_SMS

Extra = Literal["build", "tensorrt", "tensorrt-rtx"]
Purpose = Literal["build", "serve"]
Numbers = tuple[int, ...]

# TensorRT 11 has no kernels for older ones.
_FIRST_SM = 75
# 1.2.1 cannot encode.
_FIRST_LLM: Numbers = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A package that something needs, as `pyproject.toml` states it.

    names: any of these installs it. first, below: versions wanted, from and up to.
    extra: what brings it; None if it comes with beicli itself.
    """

    names: tuple[str, ...]
    first: Numbers
    below: Numbers
    extra: Extra | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def wanted(self) -> str:
        """The range in words of pip."""
        return f">={_dotted(self.first)},<{_dotted(self.below)}"

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install 'beicli[{self.extra}]'" if self.extra else "pip install beicli"


_OPENVINO = Requirement(names=("openvino",), first=(2026, 4), below=(2027,))
_BUILD = (
    Requirement(names=("torch",), first=(2, 13), below=(3,), extra="build"),
    Requirement(names=("transformers",), first=(5, 20), below=(6,), extra="build"),
    Requirement(names=("safetensors",), first=(0, 6), below=(1,), extra="build"),
    Requirement(names=("onnx",), first=(1, 19), below=(2,), extra="build"),
    Requirement(names=("onnxscript",), first=(0, 5, 6), below=(1,), extra="build"),
)
_CUDA_BINDINGS = Requirement(names=("cuda-bindings",), first=(13,), below=(14,), extra="tensorrt")
_TENSORRT = Requirement(
    names=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), first=(11,), below=(12,), extra="tensorrt"
)
_TENSORRT_RTX = Requirement(
    names=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    first=(1, 7),
    below=(1, 8),
    extra="tensorrt-rtx",
)
REQUIREMENTS = (_OPENVINO, *_BUILD, _CUDA_BINDINGS, _TENSORRT, _TENSORRT_RTX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package as it was found; version: None if it is not installed."""

    name: str
    version: str | None
    wanted: str
    is_suitable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Something that is missing.

    fix: what to do about it, a command where there is one. purpose: what cannot be done without.
    """

    what: str
    fix: str | None
    purpose: Purpose


class State(StrEnum):
    """What a backend can do here."""

    READY = "ready"
    SERVES = "can serve, cannot build"
    BUILDS = "can build, cannot serve"
    MISSING = "can neither build nor serve"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDiagnosis:
    """What a backend can do here, and all that it lacks for the rest."""

    name: Backend
    lacks: tuple[Lack, ...]

    @property
    def can_build(self) -> bool:
        return not any(lack.purpose == "build" for lack in self.lacks)

    @property
    def can_serve(self) -> bool:
        return not any(lack.purpose == "serve" for lack in self.lacks)

    @property
    def state(self) -> State:
        if self.can_serve:
            return State.READY if self.can_build else State.SERVES
        return State.BUILDS if self.can_build else State.MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """This machine, what is installed on it, and what comes of that.

    driver: None if there is none, and then `driver_problem` says why.
    tensorrt_llm: the version in its own environment; None if there is none.
    """

    machine: Machine
    driver: Driver | None
    driver_problem: str | None
    packages: tuple[Package, ...]
    tensorrt_llm: str | None
    tensorrt_llm_problem: str | None
    backends: tuple[BackendDiagnosis, ...]

    @property
    def can_serve(self) -> bool:
        """Whether any backend can."""
        return any(backend.can_serve for backend in self.backends)


def diagnose() -> Diagnosis:
    """Look at this machine; what is missing is an answer, so nothing is raised for it."""
    driver, no_driver = _driver()
    llm_version, no_llm = _tensorrt_llm()
    packages = {each.name: _find_package(each) for each in REQUIREMENTS}
    findings = _Findings(
        packages=packages,
        driver=driver,
        no_driver=no_driver,
        no_llm=no_llm,
        llm_version=llm_version,
    )
    return Diagnosis(
        machine=this_machine(),
        driver=driver,
        driver_problem=None if no_driver is None else no_driver.message,
        packages=tuple(packages.values()),
        tensorrt_llm=llm_version,
        tensorrt_llm_problem=None if no_llm is None else no_llm.message,
        backends=findings.judge(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """What the verdict on every backend follows from."""

    packages: Mapping[str, Package]
    driver: Driver | None
    no_driver: BeiError | None
    no_llm: BeiError | None
    llm_version: str | None

    def judge(self) -> tuple[BackendDiagnosis, ...]:
        build = (*self._needs("build", *_BUILD), *self._needs("build", _OPENVINO))
        openvino = self._needs("serve", _OPENVINO)
        torch = [lack for each in ("build", "serve") for lack in self._needs(each, *_BUILD[:3])]
        tensorrt = (*self._needs("serve", _TENSORRT), *self._cuda("tensorrt"))
        rtx = (*self._needs("serve", _TENSORRT_RTX), *self._cuda("tensorrt-rtx", RTX_SMS))
        llm = (*self._environment(), *self._gpu())
        found: tuple[tuple[Backend, tuple[Lack, ...]], ...] = (
            ("openvino", (*build, *openvino)),
            ("tensorrt", (*build, *tensorrt)),
            ("tensorrt-rtx", (*build, *rtx)),
            ("tensorrt-llm", (*self._needs("build", *_BUILD[:3]), *llm)),
            ("torch", tuple(torch)),
        )
        return tuple(BackendDiagnosis(name=name, lacks=lacks) for name, lacks in found)

    def _needs(self, purpose: Purpose, *requirements: Requirement) -> tuple[Lack, ...]:
        return tuple(
            _lack(requirement, self.packages[requirement.name], purpose)
            for requirement in requirements
            if not self.packages[requirement.name].is_suitable
        )

    def _cuda(self, extra: Extra, sms: tuple[int, ...] | None = None) -> Iterator[Lack]:
        """Yield what TensorRT lacks beside itself.

        sms: GPUs it has kernels for; None: all from the first on.
        """
        bindings = self.packages[_CUDA_BINDINGS.name]
        if not bindings.is_suitable:
            lack = _lack(_CUDA_BINDINGS, bindings, "serve")
            yield Lack(what=lack.what, fix=f"pip install 'beicli[{extra}]'", purpose="serve")
        yield from self._gpu()
        if self.driver is None:
            return
        if self.driver.version < CUDA:
            yield Lack(
                what=f"the driver runs CUDA up to {_dotted(self.driver.version)}; "
                f"{_dotted(CUDA)} is wanted",
                fix=f"update the NVIDIA driver to {CUDA_DRIVER} or newer",
                purpose="serve",
            )
        if not any(_is_served(device, sms) for device in self.driver.devices):
            found = ", ".join(f"sm{device.sm}" for device in self.driver.devices)
            yield Lack(
                what=f"there are no kernels for this GPU: {found}",
                fix="use `--backend tensorrt`"
                if sms
                else "use `--backend openvino` on this machine",
                purpose="serve",
            )

    def _gpu(self) -> Iterator[Lack]:
        if self.no_driver is not None:
            yield Lack(
                what=self.no_driver.message,
                fix="serve on a machine with an NVIDIA GPU and its driver; in a container, start "
                "it with `--gpus all`",
                purpose="serve",
            )

    def _environment(self) -> Iterator[Lack]:
        if self.no_llm is not None:
            yield Lack(what=self.no_llm.message, fix=self.no_llm.hint, purpose="serve")
        elif self.llm_version is not None and _numbers(self.llm_version) < _FIRST_LLM:
            yield Lack(
                what=f"TensorRT-LLM {self.llm_version} has no `LLM.encode`",
                fix=f"install TensorRT-LLM {_dotted(_FIRST_LLM)} or newer in its environment",
                purpose="serve",
            )


def _driver() -> tuple[Driver | None, BeiError | None]:
    try:
        return read_driver(), None
    except GpuUnavailableError as error:
        return None, error


def _tensorrt_llm() -> tuple[str | None, BeiError | None]:
    try:
        return find_environment().version, None
    except ToolMissingError as error:
        return None, error


def _find_package(requirement: Requirement) -> Package:
    found = next(filter(None, map(_version, requirement.names)), None)
    return Package(
        name=requirement.name,
        version=found,
        wanted=requirement.wanted,
        is_suitable=found is not None and requirement.first <= _numbers(found) < requirement.below,
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> Numbers:
    """Return the numbers a version begins with, such as (2, 13, 0) of `2.13.0+cpu`."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match.group().split("."))) if match else ()


def _lack(requirement: Requirement, package: Package, purpose: Purpose) -> Lack:
    what = (
        f"`{requirement.name}` is not installed"
        if package.version is None
        else f"`{requirement.name}` {package.version} is installed; {package.wanted} is wanted"
    )
    return Lack(what=what, fix=requirement.command, purpose=purpose)


def _is_served(device: CudaDevice, sms: tuple[int, ...] | None) -> bool:
    return device.sm >= _FIRST_SM if sms is None else device.sm in sms


def _dotted(numbers: Numbers) -> str:
    return ".".join(map(str, numbers))
