"""What the NVIDIA driver says of this machine's GPUs, asked without CUDA's libraries.

TensorRT has to be kept from a machine without a driver, or with one that is too old: its Runtime is
then a null pointer, and the next call ends the process. So this is asked first, of the driver's own
library.
"""

import ctypes
from dataclasses import dataclass

from beicli.errors import GpuUnavailableError

# The CUDA that packages of the extras are made for, and the first driver that runs it.
CUDA = (13, 0)
CUDA_DRIVER = "580"
_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
# CUdevice_attribute of cuda.h
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_HINT = "serve on a machine with an NVIDIA GPU and its driver; `bei doctor` says what is missing"


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU.

    index: as CUDA counts, which `CUDA_VISIBLE_DEVICES` changes. sm: its compute capability without
    the point, 90 for 9.0.
    """

    index: int
    name: str
    sm: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver, and the GPUs that it shows to this process.

    version: the newest CUDA it can run, major and minor.
    """

    version: tuple[int, int]
    devices: tuple[CudaDevice, ...]


def read_driver(library: str = _LIBRARY) -> Driver:
    """Ask the driver; raises GpuUnavailableError without a driver, or without a GPU."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise GpuUnavailableError(
            f"there is no NVIDIA driver: `{library}` cannot be loaded", hint=_HINT
        ) from error
    _check(cuda, "cuInit", 0)
    version = ctypes.c_int()
    _check(cuda, "cuDriverGetVersion", ctypes.byref(version))
    count = ctypes.c_int()
    _check(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise GpuUnavailableError("the NVIDIA driver shows no GPU to this process", hint=_HINT)
    # 13020 is CUDA 13.2.
    major, minor = divmod(version.value, 1000)
    devices = tuple(_read_device(cuda, index) for index in range(count.value))
    return Driver(version=(major, minor // 10), devices=devices)


def read_device(index: int) -> CudaDevice:
    """Return the GPU of that index; raises GpuUnavailableError if there is none."""
    devices = read_driver().devices
    if index >= len(devices):
        raise GpuUnavailableError(
            f"there is no GPU {index}: the driver shows {len(devices)}, counted from 0",
            hint="choose another with `--device-id`, or see `CUDA_VISIBLE_DEVICES`",
        )
    return devices[index]


def _read_device(cuda: ctypes.CDLL, index: int) -> CudaDevice:
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check(cuda, "cuDeviceGetName", name, _NAME_BYTES, index)
    memory = ctypes.c_size_t()
    _check(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), index)
    major, minor = ctypes.c_int(), ctypes.c_int()
    for value, attribute in (
        (major, _COMPUTE_CAPABILITY_MAJOR),
        (minor, _COMPUTE_CAPABILITY_MINOR),
    ):
        _check(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, index)
    return CudaDevice(
        index=index,
        name=name.value.decode(errors="replace"),
        sm=10 * major.value + minor.value,
        memory_bytes=memory.value,
    )


def _check(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Call a function of the driver; raises GpuUnavailableError if it fails."""
    code: int = getattr(cuda, function)(*arguments)
    if code == 0:
        return
    name = ctypes.c_char_p()
    is_known = cuda.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value is not None
    what = (name.value or b"").decode() if is_known else f"error {code}"
    raise GpuUnavailableError(f"the NVIDIA driver answers {what} to {function}", hint=_HINT)
