"""Where TensorRT-LLM is installed: in an environment of its own, since its pins clash with ours.

Only the Python of that environment imports it. Here it is known by the path of that Python.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from beicli.errors import ToolMissingError

PYTHON_VARIABLE = "BEI_TENSORRT_LLM_PYTHON"

_HINT = (
    f"set {PYTHON_VARIABLE} to the Python of an environment that has `tensorrt_llm` with "
    "`LLM.encode`, such as `/usr/bin/python3` in NVIDIA's container of TensorRT-LLM"
)
# Versions of packages are files; nothing of the package itself runs.
_ASK_VERSION = "from importlib.metadata import version; print(version('tensorrt_llm'))"
_ANSWER_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmEnvironment:
    """An environment with TensorRT-LLM: its Python, and the version installed there."""

    python: Path
    version: str


def find_environment(variables: Mapping[str, str] | None = None) -> LlmEnvironment:
    """Return the environment that a variable names; raises ToolMissingError if there is none.

    variables: None takes those of this process. Whether the version can encode is known only to
    the worker, which imports it.
    """
    python = _find_python(os.environ if variables is None else variables)
    try:
        asked = subprocess.run(  # noqa: S603 - the user's own Python
            [python, "-c", _ASK_VERSION],
            capture_output=True,
            text=True,
            timeout=_ANSWER_TIMEOUT_S,
            cwd=python.parent,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissingError(f"`{python}` does not run: {error}", hint=_HINT) from error
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or ["it gives no reason"])[-1]
        raise ToolMissingError(f"`{python}` has no TensorRT-LLM: {last}", hint=_HINT)
    return LlmEnvironment(python=python, version=asked.stdout.strip())


def _find_python(variables: Mapping[str, str]) -> Path:
    named = variables.get(PYTHON_VARIABLE, "")
    if not named:
        raise ToolMissingError(
            f"no environment with TensorRT-LLM is named: {PYTHON_VARIABLE} is not set", hint=_HINT
        )
    found = shutil.which(named)
    if found is None:
        raise ToolMissingError(f"{PYTHON_VARIABLE} is `{named}`, which is no program", hint=_HINT)
    # Not resolved: a virtual environment is known by the path of its link.
    return Path(found).absolute()
