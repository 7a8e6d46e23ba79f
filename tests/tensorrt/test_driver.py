import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from beicli.errors import GpuUnavailableError
from beicli.tensorrt import driver
from beicli.tensorrt.driver import CudaDevice, read_device, read_driver

# What the library of a driver answers: two GPUs, or the codes it is started with.
_DRIVER_SOURCE = r"""
#include <string.h>
#include <stdlib.h>
static int code(const char *name) { const char *v = getenv(name); return v ? atoi(v) : 0; }
int cuInit(unsigned flags) { return code("FAKE_INIT"); }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGetCount(int *count) {
  *count = getenv("FAKE_COUNT") ? code("FAKE_COUNT") : 2; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device ? "NVIDIA L4" : "NVIDIA H100 80GB HBM3", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  *bytes = device ? 24000000000u : 85000000000u; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (attribute == 75) *value = device ? 8 : 9;
  else if (attribute == 76) *value = device ? 9 : 0;
  else return 1;
  return 0; }
int cuGetErrorName(int error, const char **name) {
  if (error != 100) return 1;
  *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build a library that answers as a driver does."""
    compiler = shutil.which("cc")
    if compiler is None:
        if "CI" in os.environ:
            raise RuntimeError("CI needs a C compiler for the tests of the driver")
        pytest.skip("there is no C compiler")
    directory = tmp_path_factory.mktemp("driver")
    source, target = directory / "driver.c", directory / "libcuda.so.1"
    source.write_text(_DRIVER_SOURCE, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    return str(target)


def test_a_driver_tells_its_version_and_its_gpus(library: str) -> None:
    found = read_driver(library)

    assert found.version == (13, 2)
    assert found.devices == (
        CudaDevice(0, "NVIDIA H100 80GB HBM3", 90, 85_000_000_000),
        CudaDevice(1, "NVIDIA L4", 89, 24_000_000_000),
    )


def test_without_a_driver_it_is_said_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(GpuUnavailableError, match="there is no NVIDIA driver") as raised:
        read_driver(str(tmp_path / "libcuda.so.1"))

    assert "bei doctor" in (raised.value.hint or "")


def test_what_the_driver_answers_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_c_environment(monkeypatch, "FAKE_INIT", "100")

    with pytest.raises(GpuUnavailableError, match="CUDA_ERROR_NO_DEVICE to cuInit"):
        read_driver(library)


def test_an_answer_without_a_name_is_told_by_its_number(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_c_environment(monkeypatch, "FAKE_INIT", "7")

    with pytest.raises(GpuUnavailableError, match="answers error 7 to cuInit"):
        read_driver(library)


def test_a_driver_that_shows_no_gpu_is_no_gpu(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_c_environment(monkeypatch, "FAKE_COUNT", "0")

    with pytest.raises(GpuUnavailableError, match="shows no GPU to this process"):
        read_driver(library)


def test_a_gpu_is_found_by_its_number(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_driver(library)
    monkeypatch.setattr(driver, "read_driver", lambda: found)

    assert read_device(1).name == "NVIDIA L4"
    with pytest.raises(GpuUnavailableError, match="there is no GPU 2: the driver shows 2"):
        read_device(2)


def _set_c_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    # C's `getenv` sees what Python puts into `os.environ`.
    monkeypatch.setenv(name, value)
    assert ctypes.CDLL(None).getenv(name.encode()) is not None
