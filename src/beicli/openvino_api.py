"""OpenVINO without its telemetry: importing it plainly reports the import to its makers.

Everything of ours that needs OpenVINO takes `ov` from here, so nothing is sent at build or serve.
"""

import sys

# OpenVINO falls back to its own silent stub when this package cannot be imported; None in
# `sys.modules` is Python's way to say so. It also spares an HTTP client's import, 50 ms.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # typed as modules only

import openvino as ov  # noqa: E402 - only after the line above

__all__ = ["ov"]
