"""The parts of the checks for GPUs that need none: choosing, running, comparing, reporting."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gpu import __main__ as command
from tests.gpu import checks as gpu_checks
from tests.gpu.cases import Case, choose_cases
from tests.gpu.checks import Workplace, compare, list_checks, write_config
from tests.gpu.inside import FINDERS
from tests.gpu.outcomes import CheckResult, GpuReport, Outcome, as_text, write_report
from tests.gpu.running import Check, CheckFailedError, run_checks, run_command

from beicli.artifact.gpu import Flavor
from beicli.config.load import load_config
from beicli.errors import GpuUnavailableError
from beicli.tensorrt.driver import CudaDevice, Driver

H100 = Driver(
    version=(13, 2),
    devices=(CudaDevice(index=0, name="NVIDIA H100", sm=90, memory_bytes=85_000_000_000),),
)
BOTH: tuple[Flavor, ...] = ("tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("sm", "flavors", "precisions"),
    [
        (75, BOTH, {"f16"}),
        (86, BOTH, {"f16", "bf16"}),
        (89, BOTH, {"f16", "bf16", "fp8"}),
        (90, ("tensorrt",), {"f16", "bf16", "fp8"}),
        (100, ("tensorrt",), {"f16", "bf16", "fp8", "fp4"}),
        (120, BOTH, {"f16", "bf16", "fp8", "fp4"}),
    ],
)
def test_a_gpu_gets_the_engines_that_it_can_run(
    sm: int, flavors: tuple[Flavor, ...], precisions: set[str]
) -> None:
    cases = list(choose_cases(sm, BOTH))

    assert {case.flavor for case in cases} == set(flavors)
    assert {case.precision for case in cases} == precisions
    assert {case.model for case in cases} == {"all-minilm-l6-v2", "smollm2-135m"}
    assert len(cases) == 2 * len(flavors) * len(precisions)


def test_what_is_not_installed_is_not_checked() -> None:
    assert list(choose_cases(89, ())) == []
    assert {case.flavor for case in choose_cases(89, ("tensorrt-rtx",))} == {"tensorrt-rtx"}


def test_cases_are_chosen_by_words() -> None:
    cases = tuple(choose_cases(89, BOTH))

    chosen = command.select(cases, ["tensorrt", "fp8"])

    assert {case.name for case in chosen} == {
        "all-minilm-l6-v2 tensorrt fp8",
        "smollm2-135m tensorrt fp8",
    }
    assert command.select(cases, []) == cases


def raising(error: Exception) -> Mapping[str, Any]:
    raise error


def test_a_check_that_fails_does_not_end_the_others() -> None:
    told: list[CheckResult] = []
    checks = (
        Check(name="good", run=lambda: {"speed": 3}),
        Check(name="bad", run=lambda: raising(CheckFailedError("it is 2, wanted 3"))),
        Check(name="broken", run=lambda: raising(ZeroDivisionError("no reason"))),
        Check(name="after bad", run=dict, needs=("good", "bad")),
        Check(name="after good", run=dict, needs=("good",)),
        Check(name="after nothing", run=dict, needs=("never run",)),
    )

    results = run_checks(checks, told.append)

    outcomes = {result.name: result.outcome for result in results}
    assert outcomes == {
        "good": Outcome.PASSED,
        "bad": Outcome.FAILED,
        "broken": Outcome.FAILED,
        "after bad": Outcome.SKIPPED,
        "after good": Outcome.PASSED,
        "after nothing": Outcome.SKIPPED,
    }
    by_name = {result.name: result for result in results}
    assert by_name["good"].values == {"speed": 3}
    assert by_name["bad"].message == "it is 2, wanted 3"
    assert "ZeroDivisionError: no reason" in by_name["broken"].message
    assert by_name["after bad"].message == "needs `bad`, which did not pass"
    assert tuple(told) == results


def test_a_command_returns_what_it_prints() -> None:
    assert run_command([sys.executable, "-c", "print('data')"], timeout_s=30) == "data\n"


@pytest.mark.parametrize(
    ("code", "timeout_s", "words"),
    [
        ("import sys; sys.exit('no such GPU')", 30, "ended with 1:\nno such GPU"),
        ("import os; os.abort()", 30, "ended with -6"),
        ("import time; time.sleep(60)", 0.2, "did not end in 0.2 s"),
    ],
)
def test_a_command_that_fails_is_told_with_its_last_words(
    code: str, timeout_s: float, words: str
) -> None:
    with pytest.raises(CheckFailedError) as failed:
        run_command([sys.executable, "-c", code], timeout_s=timeout_s)

    assert words in str(failed.value)


def test_vectors_are_compared_by_their_cosine() -> None:
    reference = np.eye(3, dtype=np.float32)
    turned = reference.copy()
    turned[0] = [0.6, 0.8, 0.0]

    values = compare(turned, reference)

    assert values["mean_cosine"] == pytest.approx((0.6 + 2) / 3)
    assert values["min_cosine"] == pytest.approx(0.6)
    assert values["max_difference"] == pytest.approx(0.8)
    assert np.isnan(compare(np.full_like(reference, np.nan), reference)["mean_cosine"])
    with pytest.raises(CheckFailedError, match="vectors of shape"):
        compare(reference[:2], reference)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(models=tmp_path / "models", engines=tmp_path / "engines", sm=89, bench_s=1.0)


def test_every_check_comes_after_what_it_needs(workplace: Workplace) -> None:
    checks = list(list_checks(workplace, tuple(choose_cases(89, BOTH))))

    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    for position, check in enumerate(checks):
        assert set(check.needs) <= set(names[:position])
    kinds = {name.split()[0] for name in names}
    assert kinds == {
        "doctor",
        "reference",
        "build",
        "numbers",
        "graphs",
        "memory",
        "serve",
        "bench",
    }
    assert "numbers smollm2-135m tensorrt fp8" in names
    assert "build all-minilm-l6-v2 tensorrt f16 hybrid" in names


def test_launches_that_cannot_be_recorded_do_not_pass_for_recorded_ones(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {"max_difference": 0.0, "warnings": []}
    monkeypatch.setattr(gpu_checks, "_inside", lambda what, engine: found)
    cases = tuple(choose_cases(90, BOTH))
    (check,) = (
        each
        for each in list_checks(workplace, cases)
        if each.name == "graphs smollm2-135m tensorrt f16"
    )
    assert check.run() == found

    found["warnings"] = ["launches cannot be recorded, so small batches are slower: refused"]

    with pytest.raises(CheckFailedError, match="nothing was recorded"):
        check.run()


def test_speed_is_measured_only_if_that_is_asked(tmp_path: Path) -> None:
    workplace = Workplace(models=tmp_path, engines=tmp_path, sm=90, bench_s=None)

    checks = list_checks(workplace, tuple(choose_cases(90, BOTH)))

    assert not any(check.name.startswith("bench") for check in checks)


@pytest.mark.parametrize("precision", ["f16", "fp8", "fp4"])
def test_the_configuration_of_a_case_is_one_that_is_read(
    workplace: Workplace, precision: Any
) -> None:
    case = Case(model="smollm2-135m", flavor="tensorrt", precision=precision)

    loaded = load_config(write_config(workplace, case.model, case.quantization_type))

    build = loaded.config.trt_llm.build
    assert build.checkpoint_repository.repo == str(workplace.models / "smollm2-135m")
    assert build.quantization_type.value == case.quantization_type


def test_the_report_holds_everything_failures_too(tmp_path: Path) -> None:
    results = (
        CheckResult(
            name="numbers", outcome=Outcome.PASSED, duration_s=1.25, values={"mean_cosine": 0.9999}
        ),
        CheckResult(name="memory", outcome=Outcome.FAILED, duration_s=0.5, message="lost\nthe GPU"),
        CheckResult(name="bench", outcome=Outcome.SKIPPED, duration_s=0, message="needs `memory`"),
    )
    report = GpuReport(facts=command.describe(H100), results=results)

    readable = write_report(report, tmp_path / "new" / "report.json")

    written = json.loads((tmp_path / "new" / "report.json").read_text())
    assert written["has_passed"] is False
    assert written["facts"]["driver"]["devices"][0]["name"] == "NVIDIA H100"
    assert [result["outcome"] for result in written["results"]] == ["passed", "failed", "skipped"]
    text = readable.read_text()
    assert text.startswith("# beicli ")
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "| numbers | passed | 1.2 |" in text
    assert "## memory: failed\n\n```\nlost\nthe GPU\n```" in text
    assert "- mean_cosine: 0.9999" in text
    assert "NVIDIA H100" in text


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((), False),
        ((Outcome.SKIPPED,), False),
        ((Outcome.PASSED, Outcome.SKIPPED), True),
        ((Outcome.PASSED, Outcome.FAILED), False),
    ],
)
def test_a_report_passes_if_something_ran_and_nothing_failed(
    outcomes: tuple[Outcome, ...], *, expected: bool
) -> None:
    results = tuple(
        CheckResult(name=str(index), outcome=outcome, duration_s=0)
        for index, outcome in enumerate(outcomes)
    )

    report = GpuReport(facts={}, results=results)

    assert report.has_passed == expected
    assert as_text(report)


def test_without_a_gpu_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> Driver:
        raise GpuUnavailableError("there is no NVIDIA driver")

    monkeypatch.setattr(command, "read_driver", none)

    code = command.main(["--report", str(tmp_path / "report.json")])

    assert code == 2
    assert capsys.readouterr().err == "error: there is no NVIDIA driver\n"
    assert not (tmp_path / "report.json").exists()


def test_where_nothing_is_to_be_run_the_command_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "read_driver", lambda: H100)
    # As `make install` leaves it.
    monkeypatch.setattr(command, "installed_flavors", lambda: ("tensorrt-rtx",))

    code = command.main(["--report", str(tmp_path / "report.json")])

    assert code == 2
    assert "no TensorRT is installed that has kernels for sm90" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_the_command_runs_the_checks_and_writes_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[Workplace, tuple[Case, ...]]] = []

    def two_checks(workplace: Workplace, cases: tuple[Case, ...]) -> tuple[Check, ...]:
        seen.append((workplace, cases))
        return (
            Check(name="good", run=dict),
            Check(name="bad", run=lambda: raising(CheckFailedError("no kernel"))),
        )

    monkeypatch.setattr(command, "read_driver", lambda: H100)
    monkeypatch.setattr(command, "installed_flavors", lambda: BOTH)
    monkeypatch.setattr(command, "list_checks", two_checks)

    code = command.main(
        ["--report", str(tmp_path / "report.json"), "--only", "fp8", "--bench-seconds", "0"]
    )

    assert code == 1
    ((workplace, cases),) = seen
    assert (workplace.sm, workplace.bench_s) == (90, None)
    assert {case.precision for case in cases} == {"fp8"}
    assert json.loads((tmp_path / "report.json").read_text())["facts"]["packages"]["openvino"]
    said = capsys.readouterr().err
    assert "passed   good" in said
    assert "no kernel" in said


def test_engines_are_run_in_a_process_of_their_own(tiny_engine: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"

    found = FINDERS["outputs"](tiny_engine, output)

    assert found["num_texts"] == len(np.load(output)) > 50
    assert found["max_difference_between_rounds"] < 1e-5
    recorded = FINDERS["graphs"](tiny_engine, output)
    assert recorded["max_difference"] < 1e-5
    assert recorded["warnings"] == []


@pytest.fixture
def tiny_engine(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    from tests.builder.builds import run_build, write_config  # noqa: PLC0415 - brings torch

    loaded = write_config(tmp_path, tiny_checkpoint)
    return run_build(loaded, tmp_path / "engine", backend="torch").artifact.path
