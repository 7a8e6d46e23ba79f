"""Which GPUs engines are built for: their names, what they compute, and who can compile for them.

A GPU is known by its compute capability without the point, as `sm90`.
"""

import re
from collections.abc import Mapping

from beicli.artifact.gpu import Flavor
from beicli.artifact.manifest import Precision
from beicli.config.choices import Accelerator
from beicli.errors import UsageError

ACCELERATOR_SM: Mapping[Accelerator, int] = {
    Accelerator.T4: 75,
    Accelerator.A100: 80,
    Accelerator.A100_40GB: 80,
    Accelerator.A10G: 86,
    Accelerator.L4: 89,
    Accelerator.L40S: 89,
    Accelerator.H100: 90,
    Accelerator.H100_40GB: 90,
    Accelerator.H200: 90,
    Accelerator.B200: 100,
    Accelerator.B300: 103,
    Accelerator.GB300: 103,
    Accelerator.RTX_PRO_6000: 120,
}
# tensorrt-rtx has kernels for these and no others; it compiles for them without a GPU.
RTX_SMS = (75, 80, 86, 89, 120, 121)
_KNOWN_SMS = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
# The first that multiplies in it.
_FIRST_SM: Mapping[Precision, int] = {"bf16": 80, "fp8": 89, "fp4": 100}


def parse_target(text: str) -> int:
    """Return the number of `sm89`; raises UsageError if no such GPU is known."""
    match = re.fullmatch(r"sm_?(\d{2,3})", text.strip().lower())
    sm = int(match.group(1)) if match else None
    if sm not in _KNOWN_SMS:
        raise UsageError(
            f"`--target {text}` is not a GPU that TensorRT compiles for",
            hint=f"name its compute capability without the point: "
            f"{', '.join(f'sm{known}' for known in _KNOWN_SMS)}",
        )
    return sm


def accelerator_sm(accelerator: Accelerator) -> int:
    """Return the compute capability of a named GPU; raises UsageError if TensorRT has none."""
    sm = ACCELERATOR_SM.get(accelerator)
    if sm is None:
        reason = (
            "TensorRT 11 has no kernels for it"
            if accelerator is Accelerator.V100
            else "its compute capability is not known here"
        )
        raise UsageError(
            f"`resources.accelerator` is `{accelerator}`: {reason}",
            hint="name the GPU's compute capability with `--target`, or build for this CPU with "
            "`--backend openvino`",
        )
    return sm


def default_flavor(sm: int) -> Flavor:
    """Return what compiles for a GPU: without one where that can be, else TensorRT itself."""
    return "tensorrt-rtx" if sm in RTX_SMS else "tensorrt"


def check_flavor(flavor: Flavor, sm: int) -> None:
    """Raise UsageError if a flavour has no kernels for a GPU."""
    if flavor == "tensorrt-rtx" and sm not in RTX_SMS:
        raise UsageError(
            f"tensorrt-rtx has no kernels for sm{sm}",
            hint="use `--backend tensorrt`; it compiles when the engine is first served there",
        )


def compiles_without_gpu(flavor: Flavor, sm: int) -> bool:
    """Whether a plan can be compiled on a machine without such a GPU."""
    return flavor == "tensorrt-rtx" and sm in RTX_SMS


def check_precision(precision: Precision, sm: int) -> None:
    """Raise UsageError if a GPU does not multiply in a precision."""
    first = _FIRST_SM.get(precision, 0)
    if sm >= first:
        return
    wanted = {
        "bf16": "use `--precision f16`",
        "fp8": "write `quantization_type: no_quant`, or name an L4, H100 or newer GPU",
        "fp4": "write `quantization_type: fp8`, or name a B200 or newer GPU",
    }
    raise UsageError(
        f"sm{sm} does not multiply in {precision}, which begins with sm{first}",
        hint=wanted[precision],
    )
