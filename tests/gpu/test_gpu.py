"""All of it as one test, on a machine that has a GPU; `python -m tests.gpu` writes the report."""

from pathlib import Path

import pytest
from tests.gpu.__main__ import main

from beicli.errors import GpuUnavailableError
from beicli.tensorrt.driver import read_driver


@pytest.fixture
def _gpu() -> None:
    try:
        read_driver()
    except GpuUnavailableError as error:
        pytest.skip(error.message)


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu")
def test_every_check_passes_on_this_gpu(tmp_path: Path, models_directory: Path) -> None:
    arguments = ["--report", str(tmp_path / "report.json"), "--models", str(models_directory)]

    code = main([*arguments, "--bench-seconds", "0"])

    assert code == 0, (tmp_path / "report.md").read_text(encoding="utf-8")
