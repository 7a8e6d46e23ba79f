"""`python -m tests.gpu --report FILE`: everything there is to find out on a machine with a GPU.

Writes FILE as JSON and, beside it, the same for people. Please send back both, whatever came of it.
Exits 0 if all passed, 1 if something failed, 2 if there is no GPU or nothing to run on it.
"""

import argparse
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.gpu.cases import Case, choose_cases
from tests.gpu.checks import Workplace, list_checks
from tests.gpu.outcomes import CheckResult, GpuReport, write_report
from tests.gpu.running import run_checks

from beicli.artifact.gpu import Flavor
from beicli.errors import GpuUnavailableError
from beicli.machine import this_machine
from beicli.tensorrt.driver import Driver, read_driver

_MODULES: Mapping[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# The first words of the checks that a measurement needs, and of the measurements.
_FOR_SPEED = frozenset({"doctor", "reference", "build", "numbers", "bench"})
_PACKAGES = ("openvino", "torch", "transformers", "onnx", "cuda-bindings", "numpy", *_MODULES)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        driver = read_driver()
    except GpuUnavailableError as error:
        _say(f"error: {error.message}")
        return 2
    sm = driver.devices[0].sm
    cases = select(tuple(choose_cases(sm, installed_flavors())), options.only)
    if not cases:
        # A report of nothing would say that all is well.
        words = f", or no case has the words {options.only}" if options.only else ""
        _say(f"error: no TensorRT is installed that has kernels for sm{sm}{words}")
        _say("hint: pip install 'beicli[tensorrt]'")
        return 2
    with tempfile.TemporaryDirectory(prefix="bei-gpu-") as temporary:
        workplace = Workplace(
            models=options.models,
            engines=options.engines or Path(temporary),
            sm=sm,
            bench_s=options.bench_seconds or None,
        )
        checks = list_checks(workplace, cases)
        if options.speed_only:
            checks = (check for check in checks if check.name.split()[0] in _FOR_SPEED)
        results = run_checks(checks, tell=_tell)
    report = GpuReport(facts=describe(driver), results=results)
    readable = write_report(report, options.report)
    _say(f"wrote {options.report} and {readable}")
    return 0 if report.has_passed else 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    made.add_argument("--report", type=Path, required=True, metavar="FILE")
    made.add_argument("--models", type=Path, default=Path(".models"), help="folder of the models")
    made.add_argument("--engines", type=Path, help="keep the engines in this folder")
    made.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases with all words")
    made.add_argument("--speed-only", action="store_true", help="no more than speed needs")
    made.add_argument(
        "--bench-seconds", type=float, default=10.0, help="of each measurement; 0 measures none"
    )
    return made


def select(cases: tuple[Case, ...], words: Collection[str]) -> tuple[Case, ...]:
    """Return the cases whose names have all the words."""
    return tuple(case for case in cases if all(word in case.name.split() for word in words))


def installed_flavors() -> tuple[Flavor, ...]:
    return tuple(flavor for flavor, module in _MODULES.items() if find_spec(module) is not None)


def describe(driver: Driver) -> dict[str, Any]:
    """Return what a measurement depends on."""
    return {
        "driver": asdict(driver),
        "machine": asdict(this_machine()),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tell(result: CheckResult) -> None:
    _say(f"{result.outcome:<8} {result.name}   {result.duration_s:.1f} s")
    if result.message:
        _say("         " + result.message.splitlines()[-1])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
